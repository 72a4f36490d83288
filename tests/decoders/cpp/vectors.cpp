// The golden vectors against the C++ decoder:  vectors FOLDER [CASE ...]  (exit code 1 when one differs)
#include <new>

#include "case.hpp"

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

using vectors::at;
using vectors::Bytes;
using vectors::json;
using vectors::read;
using vectors::Value;
using vectors::whole;

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

void same_geometry(const edgeseg::Letterbox& box, const Value& of, const std::string& name, Checks& checks) {
  const Value& want = at(of, "letterbox");
  bool same = box.ratio == at(want, "ratio").number;
  for (std::size_t i = 0; i < 2; ++i) {
    same = same && box.pad[i] == whole(at(want, "pad").items[i]) && box.resized[i] == whole(at(want, "resized").items[i]) &&
           box.scale[i] == at(want, "scale").items[i].number;
  }
  checks.that(same, name, "another letterbox");
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
  const vectors::Case c(folder);
  checks.that(bool(c.read_it), name, c.read_it.what);
  same_geometry(c.box, c.of, name, checks);
  const Value& want = at(c.of, "expected");
  edgeseg::Decoder decoder(c.manifest);
  for (int turn = 0; turn < 4; ++turn) {
    const long before = allocations;
    edgeseg::Result found;
    const edgeseg::Status status = decoder.run(c.tensors.data(), c.tensors.size(), c.box, c.settings, found);
    checks.that(turn < 2 || allocations == before, name, "memory is allocated");
    if (want.find("error")) {
      checks.that(!status && found.count == 0, name, "it must be refused");
    } else {
      checks.that(bool(status), name, status.what);
      if (status && turn % 3 == 0) compare(found, want, name, checks);
    }
  }
  edgeseg::Decoder small(c.manifest, 1 << 9);
  edgeseg::Result found;
  const edgeseg::Status status = small.run(c.tensors.data(), c.tensors.size(), c.box, c.settings, found);
  const bool refused = status.code == edgeseg::Error::memory || want.find("error");
  checks.that(refused && !status && found.count == 0, name, "more memory than the limit");
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
  same_geometry(box, of, name, checks);
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
