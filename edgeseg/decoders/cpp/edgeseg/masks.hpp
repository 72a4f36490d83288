// Masks from coefficients and the prototype, equal to those of edgeseg.vision.masks to the pixel.
//
// A logit of the grid is a dot product in float64, rounded to float32; between grid points it is bilinear in float32, one
// axis after the other as a + f * (b - a), and true above 0. Cheap logits with a bound of their error come first. Inside a
// cell of the grid whose four corners have one sign beyond it, no pixel is looked at; the few pixels within it are done anew.
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
    weight = arena.take<float>(std::size_t(pixels) + kSpare);
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
    std::fill(weight + pixels, weight + pixels + kSpare, 0.0f);
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
  bool prepare(const Axis& across, const Axis& down, std::size_t width, std::size_t cells, Arena& arena) noexcept {
    across_ = across, down_ = down;
    low_ = arena.take<float>(width + kSpare);
    step_ = arena.take<float>(width + kSpare);
    spans_ = arena.take<Span>(cells);
    kinds_ = arena.take<std::int8_t>(cells + kSpare);
    if (!low_ || !step_ || !spans_ || !kinds_) return false;
    std::fill(low_, low_ + width + kSpare, 0.0f);
    std::fill(step_, step_ + width + kSpare, 0.0f);
    return true;
  }

  // ``pixels`` has room for the window and ``kSpare`` more.
  void fill(const Window& w, const Logits& logits, std::uint8_t* pixels) noexcept {
    const std::size_t wide = std::size_t(w.x1 - w.x0);
    const std::uint32_t first = down_.first[w.y0];
    const bool exact = logits.margin() < 0;
    for (int y = w.y0; y < w.y1;) {
      const std::uint32_t at = down_.first[y];
      const std::size_t count = exact ? 0 : spans(w, logits, at - first);
      if (exact) edges(w, logits, at - first);
      for (const int end = std::min(down_.ends[at], w.y1); y < end; ++y, pixels += wide) {
        if (exact) {
          signs(wide, down_.weight[y], pixels);
        } else {
          row(w, logits, count, y, pixels);
        }
      }
    }
  }

 private:
  static constexpr std::int8_t kPositive = 1, kNegative = 2;

  struct Span {
    std::size_t start, end;  // pixels of the tile
    std::int8_t kind;        // kPositive: all of them; kNegative: none; 0: to be computed
  };

  // Cut the pixels across into spans of cells of one kind, and interpolate across where it is needed. What lies behind such
  // a span and is short is computed with it, whatever its kind.
  std::size_t spans(const Window& w, const Logits& logits, std::size_t j) noexcept {
    const std::size_t below = std::min(j + 1, logits.rows() - 1), across = logits.cols() > 1 ? 1 : 0;
    const std::size_t cells = logits.cols() - across, origin = across_.first[w.x0];
    kinds(logits.values(j), logits.values(below), across, cells, logits.margin());
    std::size_t count = 0;
    int x = w.x0;
    for (std::size_t i = 0; i < cells && x < w.x1;) {
      const std::int8_t kind = kinds_[i];
      std::size_t end = i + 1;
      while (end < cells && kinds_[end] == kind) ++end;
      const int start = x;
      x = std::min(across_.ends[origin + end - 1], w.x1);
      const bool joined = count && !spans_[count - 1].kind && (!kind || x - start < int(kSpare));
      if (joined) {
        spans_[count - 1].end = std::size_t(x - w.x0);
      } else {
        spans_[count++] = Span{std::size_t(start - w.x0), std::size_t(x - w.x0), kind};
      }
      if (joined || !kind) between(w, logits, j, below, i, end, start);
      i = end;
    }
    return count;
  }

  // On which side of 0 the four corners of each cell lie, all of them and farther than the margin.
  void kinds(const float* upper, const float* lower, std::size_t across, std::size_t cells, float margin) noexcept {
    for (std::size_t i = 0; i < cells; i += kSpare) {
      std::uint32_t kind[kSpare];
      for (std::size_t k = 0; k < kSpare; ++k) {
        const float a = upper[i + k], b = upper[i + k + across], c = lower[i + k], d = lower[i + k + across];
        const std::uint32_t above = (a > margin) & (b > margin) & (c > margin) & (d > margin);
        const std::uint32_t under = (a < -margin) & (b < -margin) & (c < -margin) & (d < -margin);
        kind[k] = above + under + under;
      }
      for (std::size_t k = 0; k < kSpare; ++k) kinds_[i + k] = static_cast<std::int8_t>(kind[k]);
    }
  }

  // Interpolate across the cells start..end-1, whose first pixel is ``x``: the upper edge, and the way down from it.
  void between(const Window& w, const Logits& logits, std::size_t j, std::size_t below, std::size_t start, std::size_t end,
               int x) noexcept {
    const std::size_t origin = across_.first[w.x0];
    const float *upper = logits.values(j), *lower = logits.values(below), *weight = across_.weight + w.x0;
    std::size_t at = std::size_t(x - w.x0);
    for (std::size_t i = start; i < end; ++i) {
      const std::size_t next = std::min(i + 1, logits.cols() - 1), last = std::size_t(std::min(across_.ends[origin + i], w.x1) - w.x0);
      const float a = upper[i], c = lower[i] - a, ab = upper[next] - a, cd = lower[next] - lower[i] - ab;
      for (; at < last; at += kSpare / 2) {
        for (std::size_t k = at; k < at + kSpare / 2; ++k) low_[k] = a + ab * weight[k], step_[k] = c + cd * weight[k];
      }
      at = last;
    }
  }

  // Whether the logit of a pixel is above 0, as Python computes it.
  bool above(const Window& w, const Logits& logits, int x, int y) const noexcept {
    const std::size_t i = across_.first[x] - across_.first[w.x0], j = down_.first[y] - down_.first[w.y0];
    const std::size_t right = std::min(i + 1, logits.cols() - 1), below = std::min(j + 1, logits.rows() - 1);
    const float a = logits.at(j, i), c = logits.at(below, i), weight = across_.weight[x];
    const float low = rounded((right != i ? logits.at(j, right) - a : 0.0f) * weight) + a;
    const float high = rounded((right != i ? logits.at(below, right) - c : 0.0f) * weight) + c;
    return (below != j ? high - low : 0.0f) * down_.weight[y] > -low;
  }

  // A row of cells where the logits are Python's; ``signs`` makes a row of pixels of it.
  void edges(const Window& w, const Logits& logits, std::size_t j) noexcept {
    const std::size_t origin = across_.first[w.x0], below = std::min(j + 1, logits.rows() - 1);
    const float *upper = logits.values(j), *lower = logits.values(below), *weight = across_.weight + w.x0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < logits.cols(); ++i) {
      const bool next = i + 1 < logits.cols();
      const float a = upper[i], c = lower[i], ab = next ? upper[i + 1] - a : 0.0f, cd = next ? lower[i + 1] - c : 0.0f;
      for (const std::size_t last = std::size_t(std::min(across_.ends[origin + i], w.x1) - w.x0); at < last; ++at) {
        low_[at] = rounded(ab * weight[at]) + a;
        step_[at] = rounded(cd * weight[at]) + c - low_[at];
      }
    }
    if (below == j) std::fill(step_, step_ + at, 0.0f);
  }

  void signs(std::size_t wide, float weight, std::uint8_t* __restrict out) const noexcept {
    const float *step = step_, *low = low_;
    for (std::size_t x = 0; x < wide; x += kSpare) {
      std::uint32_t hits[kSpare];
      for (std::size_t i = 0; i < kSpare; ++i) hits[i] = step[x + i] * weight > -low[x + i];
      for (std::size_t i = 0; i < kSpare; ++i) out[x + i] = static_cast<std::uint8_t>(hits[i]);
    }
  }

  void row(const Window& w, const Logits& logits, std::size_t count, int y, std::uint8_t* __restrict out) const noexcept {
    const float *step = step_, *low = low_, weight = down_.weight[y], margin = logits.margin();
    for (std::size_t s = 0; s < count; ++s) {
      const Span span = spans_[s];
      if (span.kind) {
        const int value = span.kind == kPositive;
        for (std::size_t x = span.start; x < span.end; x += kSpare) std::memset(out + x, value, kSpare);
        continue;
      }
      for (std::size_t x = span.start; x < span.end; x += kSpare) {
        std::uint32_t sides[kSpare];  // as wide as a float: comparisons of many at once fit it
        for (std::size_t i = 0; i < kSpare; ++i) {
          const float logit = low[x + i] + step[x + i] * weight;
          sides[i] = (logit > margin ? kAll : 0u) + (logit > -margin ? kAll : 0u);  // -2, -1 or 0: above, near, below
        }
        std::uint8_t bytes[kSpare];
        for (std::size_t i = 0; i < kSpare; ++i) bytes[i] = static_cast<std::uint8_t>(sides[i]);
        for (std::size_t i = 0; i < kSpare; ++i) out[x + i] = bytes[i] >> 7;
        std::uint64_t half[2];
        std::memcpy(half, bytes, sizeof half);
        if (!((half[0] | half[1]) & 0x0101010101010101u)) continue;
        for (std::size_t i = x; i < std::min(x + kSpare, span.end); ++i) {
          if (bytes[i - x] & 1) out[i] = above(w, logits, w.x0 + int(i), y);
        }
      }
    }
  }

  static constexpr std::uint32_t kAll = 0xFFFFFFFFu;
  Axis across_, down_;
  float *low_ = nullptr, *step_ = nullptr;  // of the row of cells: its upper edge, and the way down from it
  Span* spans_ = nullptr;
  std::int8_t* kinds_ = nullptr;
};

}  // namespace detail
}  // namespace edgeseg
