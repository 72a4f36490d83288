// Mutated manifests, tensors and settings against the C++ decoder, meant to be built with sanitizers.
//   fuzz_cpp FOLDER COUNT [SEED [NOTE]]     FOLDER: golden vectors; NOTE: a file that holds the seed of the last input
//   fuzz_cpp FOLDER 1 SEED                  repeats that input
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include "cpp/case.hpp"

namespace {

using vectors::Case;

struct Sound {  // a case that fits, and its manifest's text
  Case of;
  std::string text;
  explicit Sound(const std::string& folder) : of(folder), text(vectors::at(of.of, "manifest").text) {}
};

struct Input {
  std::string text;
  std::vector<vectors::Bytes> bytes;
  std::vector<edgeseg::Tensor> tensors;
  edgeseg::Settings settings;
  int source[2] = {1, 1}, size[2] = {1, 1};
};

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t n) { return n ? static_cast<std::size_t>(random_() % n) : 0; }
  bool chance(std::size_t one_in) { return below(one_in) == 0; }
  template <class T, std::size_t n>
  T any(const T (&from)[n]) { return from[below(n)]; }

  Input make(const Sound& sound) {
    Input out;
    out.text = sound.text;
    if (chance(3)) text(out.text);
    std::string data;
    for (const edgeseg::Tensor& t : sound.of.tensors) {
      data.assign(static_cast<const char*>(t.data), t.bytes);
      edgeseg::Tensor made = t;
      if (chance(8)) values(data, t.type);
      if (chance(40)) shape(made);
      if (chance(60)) made.type = any(kTypes);
      if (chance(60)) data.resize(below(data.size() + 1));
      out.bytes.emplace_back(data);
      made.data = chance(200) ? nullptr : out.bytes.back().data;
      made.bytes = data.size();
      out.tensors.push_back(made);
    }
    if (chance(60)) out.tensors.pop_back();
    if (chance(60) && out.tensors.size() > 1) std::swap(out.tensors[0], out.tensors[below(out.tensors.size())]);
    out.settings = sound.of.settings;
    if (chance(2)) settings(out.settings);
    for (int i = 0; i < 2; ++i) {
      out.source[i] = static_cast<int>(chance(50) ? any(kSides) : 1 + below(160));
      out.size[i] = chance(30) ? any(kSides) : sound.of.box.size[i];
    }
    return out;
  }

 private:
  void text(std::string& s) {
    for (std::size_t turns = 1 + below(4); turns--;) {
      const std::size_t at = below(s.size());
      switch (below(5)) {
        case 0: s[at] = static_cast<char>(random_()); break;
        case 1: s.insert(at, any(kWords)); break;
        case 2: s.erase(at, 1 + below(12)); break;
        case 3: s.insert(at, s.substr(below(s.size()), below(60))); break;
        case 4: {  // a number becomes another
          const std::size_t digit = s.find_first_of("0123456789", at);
          if (digit != std::string::npos) s.replace(digit, 1, any(kNumbers));
        }
      }
      if (s.empty()) s = "{";
    }
  }

  void values(std::string& data, edgeseg::Type type) {
    const std::size_t width = edgeseg::size_of(type), count = data.size() / width;
    for (std::size_t turns = 1 + below(40); turns-- && count;) {
      const std::size_t at = below(count), n = std::min(count - at, 1 + below(chance(4) ? 400 : 2));
      const float real = any(kFloats);
      const auto byte = static_cast<char>(random_());
      for (std::size_t i = at; i < at + n; ++i) {
        if (type == edgeseg::Type::float32) {
          std::memcpy(&data[4 * i], &real, 4);
        } else {
          data[width * i] = byte;
        }
      }
    }
  }

  void shape(edgeseg::Tensor& t) {
    switch (below(4)) {
      case 0: t.rank = static_cast<int>(below(5)); break;
      case 1: t.shape[below(4)] = any(kDims); break;
      case 2: std::swap(t.shape[below(4)], t.shape[below(4)]); break;
      case 3: t.shape[below(4)] += static_cast<std::int64_t>(below(3)) - 1;
    }
  }

  void settings(edgeseg::Settings& s) {
    static constexpr int kClasses[] = {0, 2, -1, 2147483647};
    s.conf = any(kReals), s.iou = any(kReals), s.max_det = any(kCounts);
    s.multi_label = chance(2), s.masks = !chance(4);
    if (chance(20)) s.index = any(kCounts);
    if (chance(10)) s.classes = kClasses, s.class_count = below(5);
  }

  static constexpr edgeseg::Type kTypes[] = {edgeseg::Type::float32, edgeseg::Type::int8, edgeseg::Type::uint8, edgeseg::Type::int16,
                                            edgeseg::Type::float16};
  static constexpr int kSides[] = {-1, 0, 1, 2, 31, 640, 5000, 1 << 20, 2147483647};
  static constexpr std::int64_t kDims[] = {-1, 0, 1, 2, 3, 64, 1 << 20, std::numeric_limits<std::int64_t>::max()};
  static constexpr int kCounts[] = {-1, 0, 1, 2, 300, 2147483647};
  static constexpr double kReals[] = {0, 1e-40, 0.001, 0.25, 0.5, 0.9, 1, -0.1, 1.1, std::numeric_limits<double>::quiet_NaN()};
  static constexpr float kFloats[] = {0, -0.0f, 1, -1, 1e-40f, 1e10f, -1e10f, 3e38f, -3e38f, std::numeric_limits<float>::infinity(),
                                      -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  static constexpr const char* kNumbers[] = {"0", "-1", "1e308", "1e-320", "NaN", "Infinity", "65536", "2147483648", "1.5", "00", "true"};
  static constexpr const char* kWords[] = {"{", "}", "[[[[[[", "]", "\"", "\\u", "\\ud800", "null", ",", ":", "1e999", "\xff", "\"schema\":2,", "-"};
  std::mt19937_64 random_;
};

// Whatever comes out is sound, and every pixel of it may be read.
bool sound(const edgeseg::Result& found, const edgeseg::Manifest& manifest, const edgeseg::Letterbox& box, long& pixels) {
  float before = 1;
  for (std::size_t i = 0; i < found.count; ++i) {
    const edgeseg::Detection& d = found.detections[i];
    const bool inside = d.box[0] >= 0 && d.box[1] >= 0 && d.box[0] < d.box[2] && d.box[1] < d.box[3] &&
                        d.box[2] <= float(box.source[1]) && d.box[3] <= float(box.source[0]);
    const bool fits = d.mask.x + d.mask.width <= box.source[1] && d.mask.y + d.mask.height <= box.source[0];
    if (!inside || !fits || !(d.score >= 0 && d.score <= before) || d.cls < 0 || std::size_t(d.cls) >= manifest.names.size()) return false;
    before = d.score;
    for (long p = 0; p < long(d.mask.width) * d.mask.height; ++p) {
      if (d.mask.pixels[p] > 1) return false;
      pixels += d.mask.pixels[p];
    }
  }
  return true;
}

struct Tally {
  long refused_manifests = 0, refused = 0, decoded = 0, detections = 0, pixels = 0, inputs = 0;
};

bool run(const Input& in, Tally& tally) {
  edgeseg::Manifest manifest;
  if (!edgeseg::Manifest::parse(in.text.data(), in.text.size(), manifest)) return ++tally.refused_manifests, true;
  edgeseg::Letterbox box;
  edgeseg::Result found;
  const bool fitted = bool(edgeseg::Letterbox::fit(in.source[0], in.source[1], in.size[0], in.size[1], box));
  if (fitted && long(in.source[0]) * in.source[1] <= 40000 && long(manifest.imgsz[0]) * manifest.imgsz[1] <= 40000) {
    std::vector<std::uint8_t> picture(std::size_t(in.source[0]) * std::size_t(in.source[1]) * 3, 7);
    edgeseg::Preprocessor preprocess(manifest);
    std::vector<float> room(preprocess.bytes() / 4 + 1);
    edgeseg::Picture p;
    p.pixels = picture.data(), p.height = in.source[0], p.width = in.source[1];
    edgeseg::Letterbox geometry;
    tally.inputs += bool(preprocess.run(p, room.data(), preprocess.bytes(), geometry));
  }
  edgeseg::Decoder decoder(manifest, std::size_t(1) << 25);
  for (int turn = 0; turn < 2; ++turn) {
    if (!decoder.run(in.tensors.data(), in.tensors.size(), box, in.settings, found)) return ++tally.refused, found.count == 0;
    if (!sound(found, manifest, box, tally.pixels)) return false;
  }
  ++tally.decoded, tally.detections += long(found.count);
  return true;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return std::fprintf(stderr, "fuzz_cpp FOLDER COUNT [SEED [NOTE]]\n"), 2;
  const std::string root = words[1];
  const long inputs = std::atol(words[2]);
  std::uint64_t seed = count > 3 ? std::strtoull(words[3], nullptr, 10) : 0;
  std::vector<Sound*> all;
  const vectors::Value index = vectors::json(root + "/index.json");
  for (const vectors::Value& name : vectors::at(index, "cases").items) {
    auto* one = new Sound(root + "/" + name.text);
    std::size_t bytes = 0;
    for (const edgeseg::Tensor& t : one->of.tensors) bytes += t.bytes;
    if (bytes > 120000) delete one;
    else all.push_back(one);
  }
  Tally tally;
  double slowest = 0;
  std::uint64_t slow = 0;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  std::FILE* note = count > 4 ? std::fopen(words[4], "w") : nullptr;
  for (long i = 0; i < inputs; ++i, ++seed) {
    if (note) {
      std::rewind(note);
      std::fprintf(note, "%llu\n", static_cast<unsigned long long>(seed));
      std::fflush(note);
    }
    alarm(60);  // a hang ends the run
    Mutator mutator(seed * 0x9E3779B97F4A7C15u + 1);
    const Input in = mutator.make(*all[mutator.below(all.size())]);
    const auto before = Clock::now();
    if (!run(in, tally)) return std::printf("input %llu: an unsound result\n", static_cast<unsigned long long>(seed)), 1;
    const double took = std::chrono::duration<double>(Clock::now() - before).count();
    if (took > slowest) slowest = took, slow = seed;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::printf("%ld inputs of %zu cases in %.0f s, slowest %.2f s (seed %llu): %ld manifests refused, %ld refused, %ld decoded with %ld detections, "
              "%ld input tensors\n", inputs, all.size(), seconds, slowest, static_cast<unsigned long long>(slow), tally.refused_manifests, tally.refused, tally.decoded,
              tally.detections, tally.inputs);
  for (Sound* one : all) delete one;
  if (note) std::fclose(note);
  return 0;
}
