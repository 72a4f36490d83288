// The golden vectors against the C++ decoder:  vectors FOLDER  (exit code 1 when one differs)
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#include "edgeseg.hpp"

static long allocations = 0;

void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(n ? n : 1);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

using edgeseg::json::Value;

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

Value json(const std::string& path) {
  const std::string text = read(path);
  Value value;
  if (!edgeseg::json::parse(text.data(), text.size(), value, std::size_t(1) << 28)) {
    std::fprintf(stderr, "%s is no JSON\n", path.c_str());
    std::exit(2);
  }
  return value;
}

const Value& at(const Value& v, const char* key) {
  if (const Value* found = v.find(key)) return *found;
  std::fprintf(stderr, "no key %s\n", key);
  std::exit(2);
}

int whole(const Value& v) { return static_cast<int>(v.number); }

edgeseg::Type type_of(const std::string& name) {
  return name == "float32" ? edgeseg::Type::float32
         : name == "int8"  ? edgeseg::Type::int8
         : name == "uint8" ? edgeseg::Type::uint8
                           : edgeseg::Type::int16;
}

// Bytes at an address that fits every type, with nothing behind them that a sanitizer would not see.
struct Bytes {
  explicit Bytes(const std::string& text) : size(text.size()), data(std::malloc(size ? size : 1)) { std::memcpy(data, text.data(), size); }
  Bytes(Bytes&& other) noexcept : size(other.size), data(other.data) { other.data = nullptr; }
  ~Bytes() { std::free(data); }
  std::size_t size;
  void* data;
};

struct Checks {
  int wrong = 0;
  double largest = 0;
  long pixels = 0;

  void that(bool ok, const std::string& name, const char* what) {
    if (ok) return;
    ++wrong;
    std::printf("%s: %s\n", name.c_str(), what);
  }
  bool near(double a, double b) {
    const double d = a > b ? a - b : b - a;
    largest = d > largest ? d : largest;
    return d <= 1e-4;
  }
};

edgeseg::Letterbox fitted(const Value& of, const std::string& name, Checks& checks) {
  edgeseg::Letterbox box;
  const Value &source = at(of, "source"), &size = at(of, "size"), &want = at(of, "letterbox");
  edgeseg::Letterbox::fit(whole(source.items[0]), whole(source.items[1]), whole(size.items[0]), whole(size.items[1]), box);
  bool same = box.ratio == at(want, "ratio").number;
  for (std::size_t i = 0; i < 2; ++i) {
    same = same && box.pad[i] == whole(at(want, "pad").items[i]) && box.resized[i] == whole(at(want, "resized").items[i]) &&
           box.scale[i] == at(want, "scale").items[i].number;
  }
  checks.that(same, name, "another letterbox");
  return box;
}

bool same_mask(const edgeseg::Mask& mask, const Value& tile, Checks& checks) {
  const Value &corner = at(tile, "corner"), &size = at(tile, "size");
  if (mask.width != whole(size.items[1]) || mask.height != whole(size.items[0])) return false;
  const long area = long(mask.width) * mask.height;
  if (area && (mask.x != whole(corner.items[0]) || mask.y != whole(corner.items[1]))) return false;
  long pixel = 0;
  std::uint8_t value = 0;
  for (const Value& run : at(tile, "runs").items) {
    for (const long end = pixel + whole(run); pixel < end; ++pixel) {
      if (mask.pixels[pixel] != value) return false;
    }
    value = !value;
  }
  checks.pixels += area;
  return pixel == area;
}

void compare(const edgeseg::Result& found, const Value& want, const std::string& name, Checks& checks) {
  const Value &boxes = at(want, "boxes"), &scores = at(want, "scores"), &classes = at(want, "classes"), &tiles = at(want, "tiles");
  checks.that(found.count == boxes.items.size(), name, "another number of detections");
  checks.that(found.has_masks == !tiles.is(edgeseg::json::Kind::null), name, "masks where there are none, or none");
  if (found.count != boxes.items.size()) return;
  for (std::size_t i = 0; i < found.count; ++i) {
    const edgeseg::Detection& d = found.detections[i];
    bool near = true;
    for (std::size_t k = 0; k < 4; ++k) near = checks.near(d.box[k], boxes.items[i].items[k].number) && near;
    checks.that(near, name, "another box");
    checks.that(checks.near(d.score, scores.items[i].number), name, "another score");
    checks.that(d.cls == whole(classes.items[i]), name, "another class");
    if (found.has_masks) checks.that(same_mask(d.mask, tiles.items[i], checks), name, "another mask");
  }
}

void run_case(const std::string& folder, const std::string& name, Checks& checks) {
  const Value of = json(folder + "/case.json");
  const std::string& text = at(of, "manifest").text;
  edgeseg::Manifest manifest;
  const edgeseg::Status read_it = edgeseg::Manifest::parse(text.data(), text.size(), manifest);
  checks.that(bool(read_it), name, read_it.what);
  std::vector<Bytes> bytes;
  std::vector<edgeseg::Tensor> tensors;
  for (const Value& said : at(of, "outputs").items) {
    bytes.emplace_back(read(folder + "/" + at(said, "file").text));
    edgeseg::Tensor t;
    t.data = bytes.back().data;
    t.bytes = bytes.back().size;
    t.type = type_of(at(said, "dtype").text);
    for (const Value& n : at(said, "shape").items) t.shape[t.rank++] = whole(n);
    tensors.push_back(t);
  }
  const Value &set = at(of, "settings"), &only = at(set, "classes"), &want = at(of, "expected");
  std::vector<int> classes;
  for (const Value& c : only.items) classes.push_back(whole(c));
  classes.push_back(-1);  // so that an empty list is a list
  edgeseg::Settings settings;
  settings.conf = at(set, "conf").number, settings.iou = at(set, "iou").number, settings.max_det = whole(at(set, "max_det"));
  settings.multi_label = at(set, "multi_label").truth, settings.masks = at(set, "masks").truth;
  settings.index = whole(at(set, "index"));
  if (!only.is(edgeseg::json::Kind::null)) settings.classes = classes.data(), settings.class_count = classes.size() - 1;
  const edgeseg::Letterbox box = fitted(of, name, checks);
  edgeseg::Decoder decoder(manifest);
  for (int turn = 0; turn < 4; ++turn) {
    const long before = allocations;
    edgeseg::Result found;
    const edgeseg::Status status = decoder.run(tensors.data(), tensors.size(), box, settings, found);
    checks.that(turn < 2 || allocations == before, name, "memory is allocated");
    if (want.find("error")) {
      checks.that(!status && found.count == 0, name, "it must be refused");
    } else {
      checks.that(bool(status), name, status.what);
      if (status && turn % 3 == 0) compare(found, want, name, checks);
    }
  }
}

void run_input(const std::string& folder, const std::string& name, Checks& checks) {
  const Value of = json(folder + "/input.json");
  const std::string& text = at(of, "manifest").text;
  edgeseg::Manifest manifest;
  checks.that(bool(edgeseg::Manifest::parse(text.data(), text.size(), manifest)), name, "the manifest is refused");
  const Bytes image(read(folder + "/image.bin")), want(read(folder + "/tensor.bin"));
  const Value& shape = at(at(of, "image"), "shape");
  edgeseg::Picture picture;
  picture.pixels = static_cast<const std::uint8_t*>(image.data);
  picture.height = whole(shape.items[0]), picture.width = whole(shape.items[1]), picture.bgr = true;
  edgeseg::Preprocessor preprocess(manifest);
  std::vector<float> room((preprocess.bytes() + 3) / 4);
  edgeseg::Letterbox box;
  for (int turn = 0; turn < 2; ++turn) {
    const long before = allocations;
    const edgeseg::Status status = preprocess.run(picture, room.data(), preprocess.bytes(), box);
    checks.that(bool(status), name, status.what);
    checks.that(turn < 1 || allocations == before, name, "memory is allocated");
  }
  checks.that(want.size == preprocess.bytes() && !std::memcmp(want.data, room.data(), want.size), name, "another input tensor");
  fitted(of, name, checks);
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) return std::fprintf(stderr, "vectors FOLDER [CASE ...]\n"), 2;
  const std::string root = words[1];
  const Value index = json(root + "/index.json");
  Checks checks;
  int cases = 0, inputs = 0;
  const auto wanted = [&](const std::string& name) {
    for (int i = 2; i < count; ++i) {
      if (name == words[i]) return true;
    }
    return count == 2;
  };
  for (const Value& name : at(index, "cases").items) {
    if (wanted(name.text)) run_case(root + "/" + name.text, name.text, checks), ++cases;
  }
  for (const Value& name : at(index, "inputs").items) {
    if (wanted(name.text)) run_input(root + "/" + name.text, name.text, checks), ++inputs;
  }
  std::printf("%d cases, %d inputs, %ld mask pixels, largest difference %.3g, %d wrong\n", cases, inputs, checks.pixels, checks.largest, checks.wrong);
  return checks.wrong || cases + inputs == 0;
}
