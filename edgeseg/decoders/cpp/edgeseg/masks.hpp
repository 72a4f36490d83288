// Masks from coefficients and the prototype, equal to those of edgeseg.vision.masks to the pixel.
//
// A logit of the grid is a dot product in float64, rounded to float32; between grid points it is bilinear in float32, one
// axis after the other as a + f * (b - a), and true above 0. Inside a cell of the grid whose four corners have one sign,
// and are not tiny beside each other, no rounding can change the sign: such cells are filled without looking at pixels.
#pragma once

#include <algorithm>
#include <cmath>

#include "base.hpp"
#include "geometry.hpp"
#include "table.hpp"

namespace edgeseg {

// One mask: the pixels of the picture whose centres lie in the box, row by row, 1 where the object is.
struct Mask {
  int x = 0, y = 0, width = 0, height = 0;
  const std::uint8_t* pixels = nullptr;
};

namespace detail {

// Where the pixels of one axis of the picture fall on the grid: ``first`` grid point and ``weight`` of the next one.
struct Axis {
  std::uint32_t* first = nullptr;
  float* weight = nullptr;

  bool make(int pixels, double scale, int pad, double step, std::size_t cells, Arena& arena) noexcept {
    first = arena.take<std::uint32_t>(std::size_t(pixels));
    weight = arena.take<float>(std::size_t(pixels));
    if (!first || !weight) return false;
    const double last = double(cells) - 1;
    const double start = cells > 2 ? double(cells - 2) : 0;
    for (int i = 0; i < pixels; ++i) {
      double at = (rounded((i + 0.5) * scale) + pad) / step - 0.5;
      at = std::min(std::max(at, 0.0), last);
      const double base = std::min(std::floor(at), start);
      first[i] = static_cast<std::uint32_t>(base);
      weight[i] = static_cast<float>(at - base);
    }
    return true;
  }
};

struct Window {
  int x0, y0, x1, y1;
};

inline Window pixels_inside(const float (&box)[4], const Letterbox& letterbox) noexcept {
  int out[4];
  for (int i = 0; i < 4; ++i) {
    const double limit = letterbox.source[1 - i % 2];
    out[i] = static_cast<int>(std::min(std::max(std::ceil(double(box[i]) - 0.5), 0.0), limit));
  }
  return {out[0], out[1], out[2], out[3]};
}

// Logits of one mask on a window of the grid, up to a positive factor.
class Logits {
 public:
  Logits(const Image& proto, double* sums, float* out) noexcept : proto_(proto), sums_(sums), out_(out) {}

  void run(const float* coeff, std::size_t row, std::size_t rows, std::size_t col, std::size_t cols) noexcept {
    switch (proto_.type) {
      case Type::float32: return all<float>(coeff, row, rows, col, cols);
      case Type::int8: return all<std::int8_t>(coeff, row, rows, col, cols);
      case Type::uint8: return all<std::uint8_t>(coeff, row, rows, col, cols);
      case Type::int16: return all<std::int16_t>(coeff, row, rows, col, cols);
    }
  }

 private:
  template <class T>
  void all(const float* coeff, std::size_t row, std::size_t rows, std::size_t col, std::size_t cols) noexcept {
    const std::size_t k = proto_.channels(), width = proto_.width(), plane = width * proto_.height();
    const T* values = static_cast<const T*>(proto_.data);
    const double zero = proto_.type == Type::float32 ? 0 : double(proto_.spec->zero_point);
    for (std::size_t y = 0; y < rows; ++y) {
      float* out = out_ + y * cols;
      if (proto_.spec->nchw) {
        const T* from = values + (row + y) * width + col;
        std::fill(sums_, sums_ + cols, 0.0);
        for (std::size_t c = 0; c < k; ++c) {
          const double by = coeff[c];
          const T* line = from + c * plane;
          for (std::size_t x = 0; x < cols; ++x) sums_[x] += by * (double(line[x]) - zero);
        }
        for (std::size_t x = 0; x < cols; ++x) out[x] = static_cast<float>(sums_[x]);
      } else {
        const T* from = values + ((row + y) * width + col) * k;
        for (std::size_t x = 0; x < cols; ++x, from += k) {
          double sum = 0;
          for (std::size_t c = 0; c < k; ++c) sum += double(coeff[c]) * (double(from[c]) - zero);
          out[x] = static_cast<float>(sum);
        }
      }
    }
  }

  const Image& proto_;
  double* sums_;
  float* out_;
};

// Pixels of one mask from its logits.
class Tile {
 public:
  Tile(const Axis& across, const Axis& down, Arena& arena) noexcept : across_(across), down_(down), arena_(arena) {}

  // ``logits`` (rows, cols) begin at grid point (i0, j0); ``pixels`` has room for the window.
  bool fill(const Window& w, const float* logits, std::size_t rows, std::size_t cols, std::uint8_t* pixels) noexcept {
    const std::size_t width = std::size_t(w.x1 - w.x0), height = std::size_t(w.y1 - w.y0);
    float* low = arena_.take<float>(width);
    float* high = arena_.take<float>(width);
    float* step = arena_.take<float>(width);
    if (!low || !high || !step) return false;
    const std::uint32_t i0 = across_.first[w.x0], j0 = down_.first[w.y0];
    const std::uint32_t* first = across_.first + w.x0;
    const float* weight = across_.weight + w.x0;
    std::size_t at = rows;  // the row of the grid that ``low`` holds
    for (std::size_t y = 0; y < height; ++y) {
      const std::size_t j = down_.first[std::size_t(w.y0) + y] - j0;
      if (j != at) {
        if (at < rows && j == at + 1) {
          std::swap(low, high);
        } else {
          between(logits + j * cols, cols, first, weight, i0, width, low);
        }
        if (j + 1 < rows) between(logits + (j + 1) * cols, cols, first, weight, i0, width, high);
        for (std::size_t x = 0; x < width; ++x) step[x] = j + 1 < rows ? high[x] - low[x] : 0.0f;
        at = j;
      }
      const float by = down_.weight[std::size_t(w.y0) + y];
      std::uint8_t* out = pixels + y * width;
      for (std::size_t x = 0; x < width; ++x) out[x] = step[x] * by > -low[x];
    }
    return true;
  }

 private:
  static void between(const float* row, std::size_t cols, const std::uint32_t* first, const float* weight, std::uint32_t i0,
                      std::size_t width, float* out) noexcept {
    if (cols == 1) {
      std::fill(out, out + width, row[0]);
      return;
    }
    for (std::size_t x = 0; x < width; ++x) {
      const float* a = row + (first[x] - i0);
      out[x] = rounded((a[1] - a[0]) * weight[x]) + a[0];
    }
  }

  const Axis& across_;
  const Axis& down_;
  Arena& arena_;
};

}  // namespace detail
}  // namespace edgeseg
