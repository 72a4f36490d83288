// Masks from coefficients and the prototype, equal to those of edgeseg.vision.masks to the pixel.
//
// A logit of the grid is a dot product in float64, rounded to float32; between grid points it is bilinear in float32, one
// axis after the other as a + f * (b - a), and true above 0. Inside a cell of the grid whose four corners have one sign,
// and are not tiny beside each other, no rounding can change the sign: such cells are filled without looking at pixels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base.hpp"
#include "geometry.hpp"
#include "logits.hpp"

namespace edgeseg {

// One mask: the pixels of the picture whose centres lie in the box, row by row, 1 where the object is.
struct Mask {
  int x = 0, y = 0, width = 0, height = 0;
  const std::uint8_t* pixels = nullptr;
};

namespace detail {

// Where the pixels of one axis of the picture fall on the grid: ``first`` grid point and ``weight`` of the next one;
// ``ends[i]`` is the first pixel past those of grid point i.
struct Axis {
  std::uint32_t* first = nullptr;
  float* weight = nullptr;
  int* ends = nullptr;

  bool make(int pixels, double scale, int pad, double step, std::size_t cells, Arena& arena) noexcept {
    first = arena.take<std::uint32_t>(std::size_t(pixels));
    weight = arena.take<float>(std::size_t(pixels));
    ends = arena.take<int>(cells);
    if (!first || !weight || !ends) return false;
    const double last = double(cells) - 1;
    const double start = cells > 2 ? double(cells - 2) : 0;
    for (int i = 0; i < pixels; ++i) {
      double at = (rounded((i + 0.5) * scale) + pad) / step - 0.5;
      at = std::min(std::max(at, 0.0), last);
      const double base = std::min(std::floor(at), start);
      first[i] = static_cast<std::uint32_t>(base);
      weight[i] = static_cast<float>(at - base);
    }
    std::size_t cell = 0;
    for (int i = 0; i < pixels; ++i) {
      while (cell < first[i]) ends[cell++] = i;
    }
    while (cell < cells) ends[cell++] = pixels;
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

// Pixels of one mask from its logits, one row of cells of the grid after the other.
class Tile {
 public:
  // So many pixels are computed at once, some of them past a span, which those after it overwrite.
  static constexpr std::size_t kSpare = 16;

  bool prepare(const Axis& across, const Axis& down, std::size_t width, std::size_t cells, Arena& arena) noexcept {
    across_ = across, down_ = down;
    low_ = arena.take<float>(width + kSpare);
    step_ = arena.take<float>(width + kSpare);
    spans_ = arena.take<Span>(cells);
    kinds_ = arena.take<std::int8_t>(cells);
    if (!low_ || !step_ || !spans_ || !kinds_) return false;
    std::fill(low_, low_ + width + kSpare, 0.0f);
    std::fill(step_, step_ + width + kSpare, 0.0f);
    return true;
  }

  // ``pixels`` has room for the window and ``kSpare`` more.
  void fill(const Window& w, Logits& logits, std::uint8_t* pixels) noexcept {
    const std::uint32_t first = down_.first[w.y0];
    for (int y = w.y0; y < w.y1;) {
      const std::uint32_t at = down_.first[y];
      const std::size_t count = spans(w, logits, at - first);
      for (const int end = std::min(down_.ends[at], w.y1); y < end; ++y) {
        row(count, down_.weight[y], pixels + std::size_t(y - w.y0) * std::size_t(w.x1 - w.x0));
      }
    }
  }

 private:
  struct Span {
    std::size_t start, end;  // pixels of the tile
    std::int8_t kind;        // kPositive: all of them; kNegative: none; else to be computed
  };

  // Cut the pixels across into spans of cells of one kind, and interpolate across where it is needed.
  std::size_t spans(const Window& w, Logits& logits, std::size_t j) noexcept {
    const std::size_t below = std::min(j + 1, logits.rows() - 1), across = logits.cols() > 1 ? 1 : 0;
    const std::size_t cells = logits.cols() - across, origin = across_.first[w.x0];
    kinds(logits.signs(j), logits.signs(below), across, cells, kinds_);
    std::size_t count = 0;
    int x = w.x0;
    for (std::size_t i = 0; i < cells && x < w.x1;) {
      const std::int8_t kind = kinds_[i];
      std::size_t end = i + 1;
      while (end < cells && kinds_[end] == kind) ++end;
      const int start = x;
      x = std::min(across_.ends[origin + end - 1], w.x1);
      spans_[count++] = Span{std::size_t(start - w.x0), std::size_t(x - w.x0), kind};
      if (kind != Logits::kPositive && kind != Logits::kNegative) between(w, logits, j, below, i, end, start);
      i = end;
    }
    return count;
  }

  // What the four corners of each cell have in common.
  static void kinds(const std::int8_t* upper, const std::int8_t* lower, std::size_t across, std::size_t cells,
                    std::int8_t* __restrict out) noexcept {
    for (std::size_t i = 0; i < cells; ++i) out[i] = upper[i] & upper[i + across] & lower[i] & lower[i + across] & 3;
  }

  // Interpolate across the cells start..end-1, whose first pixel is ``x``: the upper edge, and the way down from it.
  void between(const Window& w, Logits& logits, std::size_t j, std::size_t below, std::size_t start, std::size_t end, int x) noexcept {
    const std::size_t origin = across_.first[w.x0], left = std::size_t(w.x0);
    float b = logits.at(j, start), d = logits.at(below, start);
    for (std::size_t i = start; i < end; ++i) {
      const std::size_t next = std::min(i + 1, logits.cols() - 1);
      const float a = b, c = d;
      const int last = std::min(across_.ends[origin + i], w.x1);
      b = logits.at(j, next), d = logits.at(below, next);
      const bool across = next != i, down = below != j;
      for (; x < last; ++x) {
        const float weight = across_.weight[x], low = across ? rounded((b - a) * weight) + a : a;
        low_[std::size_t(x) - left] = low;
        step_[std::size_t(x) - left] = !down ? 0.0f : (across ? rounded((d - c) * weight) + c : c) - low;
      }
    }
  }

  void row(std::size_t count, float weight, std::uint8_t* __restrict out) const noexcept {
    const float *step = step_, *low = low_;
    for (std::size_t s = 0; s < count; ++s) {
      const Span& span = spans_[s];
      if (span.kind == Logits::kPositive || span.kind == Logits::kNegative) {
        std::memset(out + span.start, span.kind == Logits::kPositive, span.end - span.start);
        continue;
      }
      for (std::size_t x = span.start; x < span.end; x += kSpare) {
        std::uint32_t hits[kSpare];  // as wide as a float: comparisons of many at once fit it
        for (std::size_t i = 0; i < kSpare; ++i) hits[i] = step[x + i] * weight > -low[x + i];
        for (std::size_t i = 0; i < kSpare; ++i) out[x + i] = static_cast<std::uint8_t>(hits[i]);
      }
    }
  }

  Axis across_, down_;
  float *low_ = nullptr, *step_ = nullptr;
  Span* spans_ = nullptr;
  std::int8_t* kinds_ = nullptr;
};

}  // namespace detail
}  // namespace edgeseg
