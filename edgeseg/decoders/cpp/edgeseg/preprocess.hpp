// From a picture to the input tensor, byte for byte as edgeseg.vision.preprocess makes it.
//
// The resize is bilinear in integers, pixel centres on pixel centres: weights in 1/256, rounded to even; rows in 8.8 fixed
// point, columns in 16.16, rounded up at the half. That is what OpenCV's INTER_LINEAR_EXACT gives.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base.hpp"
#include "geometry.hpp"
#include "manifest.hpp"

namespace edgeseg {

// Pixels of three bytes, row by row, ``stride`` bytes from row to row (0: no gap).
struct Picture {
  const std::uint8_t* pixels = nullptr;
  int height = 0, width = 0;
  std::size_t stride = 0;
  bool bgr = false;  // else rgb
};

// Makes input tensors of one artifact; keeps its buffers, so that after the first picture of a size nothing is allocated.
class Preprocessor {
 public:
  // ``height`` and ``width``: size of the input where it is dynamic; 0: the manifest's.
  explicit Preprocessor(const Manifest& manifest, int height = 0, int width = 0)
      : spec_(manifest.input), rgb_(manifest.rgb), channels_(manifest.channels) {
    size_[0] = height > 0 ? height : manifest.imgsz[0];
    size_[1] = width > 0 ? width : manifest.imgsz[1];
    pad_ = static_cast<std::uint8_t>(manifest.pad_value);
    known_ = tables(manifest);
  }

  std::size_t bytes() const noexcept { return std::size_t(size_[0]) * std::size_t(size_[1]) * 3 * (floats_ ? 4 : 1); }

  // Fill ``out`` of ``bytes()`` bytes, aligned for its type; ``box`` becomes the geometry that ``Decoder::run`` wants.
  Status run(const Picture& picture, void* out, std::size_t out_bytes, Letterbox& box) {
    if (!known_ || channels_ != 3) return {Error::manifest, "the input is none of three channels of float32, int8 or uint8"};
    if (!picture.pixels || !out || out_bytes != bytes()) return {Error::setting, "no picture, or room of another size"};
    if (Status s = Letterbox::fit(picture.height, picture.width, size_[0], size_[1], box); !s) return s;
    const std::size_t stride = picture.stride ? picture.stride : std::size_t(picture.width) * 3;
    if (stride < std::size_t(picture.width) * 3) return {Error::setting, "the picture's rows overlap"};
    const int height = box.resized[0], width = box.resized[1];
    column_.make(width, picture.width);
    row_.make(height, picture.height);
    for (std::vector<std::uint16_t>& line : lines_) line.resize(std::size_t(width) * 3);
    canvas_.assign(std::size_t(size_[1]) * 3, pad_);
    held_[0] = held_[1] = -1;
    for (int y = 0; y < size_[0]; ++y) {
      const int at = y - box.pad[1];
      if (at < 0 || at >= height) {
        std::fill(canvas_.begin(), canvas_.end(), pad_);
      } else {
        std::uint8_t* to = canvas_.data() + std::size_t(box.pad[0]) * 3;
        scale(picture, stride, at, std::size_t(width) * 3, to);
        std::fill(canvas_.data(), to, pad_);
        std::fill(to + std::size_t(width) * 3, canvas_.data() + canvas_.size(), pad_);
      }
      write(y, picture.bgr == rgb_, out);
    }
    return {};
  }

 private:
  struct Steps {  // for each pixel of the result: the two of the picture, and the weight of the second in 1/256
    std::vector<std::int32_t> first, second, weight;

    void make(int to, int from) {
      for (auto* v : {&first, &second, &weight}) v->resize(std::size_t(to));
      const double step = 1.0 / (double(to) / from);
      for (int i = 0; i < to; ++i) {
        const double at = rounded(step * (i + 0.5)) - 0.5;
        const double base = std::floor(at);
        const std::size_t k = std::size_t(i);
        const bool inside = base >= 0 && base < from - 1;
        first[k] = static_cast<std::int32_t>(std::min(std::max(base, 0.0), from - 1.0));
        second[k] = inside ? first[k] + 1 : first[k];
        weight[k] = inside ? static_cast<std::int32_t>(std::nearbyint((at - base) * 256)) : 0;
      }
    }
  };

  // A row of the picture, resized across, in 8.8 fixed point; the two last ones are kept.
  const std::uint16_t* line(const Picture& picture, std::size_t stride, std::int32_t y) {
    for (int i = 0; i < 2; ++i) {
      if (held_[i] == y) return lines_[i].data();
    }
    const int i = held_[0] < held_[1] ? 0 : 1;
    held_[i] = y;
    const std::uint8_t* from = picture.pixels + stride * std::size_t(y);
    std::uint16_t* to = lines_[i].data();
    for (std::size_t x = 0; x < column_.first.size(); ++x) {
      const std::uint8_t* a = from + std::size_t(column_.first[x]) * 3;
      const std::uint8_t* b = from + std::size_t(column_.second[x]) * 3;
      const int by = column_.weight[x];
      for (int c = 0; c < 3; ++c) *to++ = static_cast<std::uint16_t>(a[c] * (256 - by) + b[c] * by);
    }
    return lines_[i].data();
  }

  void scale(const Picture& picture, std::size_t stride, int y, std::size_t n, std::uint8_t* to) {
    const std::uint32_t by = static_cast<std::uint32_t>(row_.weight[std::size_t(y)]);
    const std::uint16_t* a = line(picture, stride, row_.first[std::size_t(y)]);
    const std::uint16_t* b = line(picture, stride, row_.second[std::size_t(y)]);
    for (std::size_t i = 0; i < n; ++i) {
      to[i] = static_cast<std::uint8_t>((a[i] * (256 - by) + b[i] * by + (1u << 15)) >> 16);
    }
  }

  void write(int y, bool swapped, void* out) const noexcept {
    const std::size_t width = std::size_t(size_[1]), row = std::size_t(y) * width, plane = width * std::size_t(size_[0]);
    for (std::size_t c = 0; c < 3; ++c) {
      const std::uint8_t* from = canvas_.data() + (swapped ? 2 - c : c);
      const std::size_t start = spec_.nchw ? c * plane + row : row * 3 + c, step = spec_.nchw ? 1 : 3;
      if (floats_) {
        float* to = static_cast<float*>(out) + start;
        for (std::size_t x = 0; x < width; ++x) to[x * step] = reals_[from[3 * x]];
      } else {
        std::uint8_t* to = static_cast<std::uint8_t*>(out) + start;
        for (std::size_t x = 0; x < width; ++x) to[x * step] = bytes_[from[3 * x]];
      }
    }
  }

  // What becomes of the bytes 0..255.
  bool tables(const Manifest& m) noexcept {
    const bool whole = spec_.dtype == "int8" || spec_.dtype == "uint8";
    floats_ = spec_.dtype == "float32";
    if (!floats_ && !(whole && spec_.quantized)) return false;
    const int low = spec_.dtype == "int8" ? -128 : 0;
    const float unit = static_cast<float>(m.input_max / 255);
    for (int v = 0; v < 256; ++v) {
      const float real = static_cast<float>(v) / 255.0f;
      reals_[v] = m.input_max == 1 ? real : static_cast<float>(v) * unit;
      const double q = std::nearbyint(double(real) / spec_.scale) + spec_.zero_point;
      bytes_[v] = static_cast<std::uint8_t>(static_cast<int>(std::min(std::max(q, double(low)), double(low + 255))));
    }
    return true;
  }

  Spec spec_;
  bool rgb_, floats_ = false, known_ = false;
  int channels_, size_[2] = {0, 0};
  std::uint8_t pad_ = 114;
  float reals_[256] = {};
  std::uint8_t bytes_[256] = {};
  Steps column_, row_;
  std::vector<std::uint16_t> lines_[2];
  std::vector<std::uint8_t> canvas_;
  std::int32_t held_[2] = {-1, -1};
};

}  // namespace edgeseg
