// Logits of masks on the grid of the prototype: dot products in float64, rounded to float32, as edgeseg.vision.masks has them.
//
// Few are ever needed: a cheap sum with a bound of its error decides nearly every pixel, the rest follows where somebody asks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base.hpp"
#include "table.hpp"

namespace edgeseg {
namespace detail {

// So many values are computed at once, some of them past an end, which nobody uses.
constexpr std::size_t kSpare = 16;

// One mask's logits on a window of the grid, cheap ones at once, and those of Python where somebody asks.
class Logits {
 public:
  bool prepare(const Image& proto, Arena& arena) noexcept {
    proto_ = proto;
    k_ = proto.channels(), width_ = proto.width(), plane_ = width_ * proto.height();
    step_ = proto.spec->nchw ? plane_ : 1;
    zero_ = proto.type == Type::float32 ? 0 : double(proto.spec->zero_point);
    for (std::int16_t*& digit : digit_) {
      if (!(digit = arena.take<std::int16_t>(k_))) return false;
    }
    factors_ = arena.take<double>(k_);
    point_ = arena.take<double>(k_);
    sums_ = arena.take<std::int32_t>(plane_);
    values_ = arena.take<float>(plane_ + kSpare);
    if (!factors_ || !point_ || !sums_ || !values_) return false;
    std::fill(values_, values_ + plane_ + kSpare, 0.0f);
    return true;
  }

  // Where the windows to come lie: ``rows`` from ``row`` on.
  void bounds(std::size_t row, std::size_t rows) noexcept {
    if (proto_.type != Type::float32) return;
    const float* from = static_cast<const float*>(proto_.data);
    if (step_ == 1) {
      most_ = largest(from + row * width_ * k_, rows * width_ * k_);
      return;
    }
    most_ = 0;
    for (std::size_t c = 0; c < k_; ++c) {
      const float most = largest(from + c * plane_ + row * width_, rows * width_);
      if (!(most <= most_)) most_ = most;
      if (!(most_ < 1e30f)) return;
    }
  }

  // Look at ``rows`` x ``cols`` grid points from (row, col) on.
  void window(const float* coeff, std::size_t row, std::size_t rows, std::size_t col, std::size_t cols) noexcept {
    coeff_ = coeff, row_ = row, rows_ = rows, cols_ = cols;
    // Channels first, rows are computed in eights, which begin before ``col`` where they would reach out of the grid.
    stride_ = proto_.spec->nchw ? std::min((cols + 7) / 8 * 8, width_) : cols;
    col_ = std::min(col, width_ - stride_), shift_ = col - col_;
    for (std::size_t c = 0; c < k_; ++c) factors_[c] = coeff[c];
    switch (proto_.type) {
      case Type::float32: return reals();
      case Type::int8: return integers<std::int8_t>();
      case Type::uint8: return integers<std::uint8_t>();
      case Type::int16: return unknown();
      case Type::float16: return;  // is float32 by now
    }
  }

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  // Logits up to a positive factor and an error. Where what is interpolated between them is farther from 0 than ``margin``,
  // it has the sign of Python's; a negative margin says that they are Python's. ``kSpare`` more may be read behind a row.
  const float* values(std::size_t y) const noexcept { return values_ + y * stride_ + shift_; }
  float margin() const noexcept { return margin_; }

  // Python's logit, up to a positive factor that all points of a window have in common.
  float at(std::size_t y, std::size_t x) const noexcept {
    x += shift_;
    switch (proto_.type) {
      case Type::float32: return exact<float>(y, x);
      case Type::int8: return split_ ? whole<std::int8_t>(y, x) : exact<std::int8_t>(y, x);
      case Type::uint8: return split_ ? whole<std::uint8_t>(y, x) : exact<std::uint8_t>(y, x);
      case Type::int16: return exact<std::int16_t>(y, x);
      case Type::float16: break;
    }
    return 0;
  }

 private:
  template <class T>
  const T* point(std::size_t y, std::size_t x) const noexcept {
    return static_cast<const T*>(proto_.data) + ((row_ + y) * width_ + col_ + x) * (proto_.spec->nchw ? 1 : k_);
  }

  template <class T>
  float exact(std::size_t y, std::size_t x) const noexcept {
    const T* from = point<T>(y, x);
    if (step_ == 1) {
      for (std::size_t c = 0; c < k_; ++c) point_[c] = double(from[c]) - zero_;
    } else {
      for (std::size_t c = 0; c < k_; ++c) point_[c] = double(from[c * step_]) - zero_;
    }
    double part[4] = {0, 0, 0, 0};
    std::size_t c = 0;
    for (; c + 4 <= k_; c += 4) {
      for (std::size_t i = 0; i < 4; ++i) part[i] += point_[c + i] * factors_[c + i];
    }
    for (; c < k_; ++c) part[0] += point_[c] * factors_[c];
    return static_cast<float>(part[0] + part[1] + (part[2] + part[3]));
  }

  void unknown() noexcept {
    split_ = false, margin_ = -1;
    for (std::size_t y = 0; y < rows_; ++y) {
      for (std::size_t x = 0; x < cols_; ++x) values_[y * stride_ + shift_ + x] = at(y, x);
    }
  }

  // Coefficients as integers of 47 bits, in three digits of 16. The sums of the first digit, in 32 bits, are off by what the
  // others are times the largest value at most. They are at most 2^23 a channel, of which float32 rounds off a half each time,
  // a dozen times from there to a pixel, here and in Python; 16 are allowed. Where no coefficient is 2^14 times another, the
  // sums of all three are what float64 has, exactly.
  template <class T>
  void integers() noexcept {
    using Limits = std::numeric_limits<T>;
    split_ = zero_ >= Limits::min() && zero_ <= Limits::max() && k_ <= 128 && digits();
    if (!split_) return unknown();
    double rest = 0;
    for (std::size_t c = 0; c < k_; ++c) rest += std::fabs(double(digit_[1][c])) + 2;
    const double most = std::max(zero_ - Limits::min(), Limits::max() - zero_);
    margin_ = static_cast<float>(rest / 65536 * most * 1.001 + 16 * double(k_));
    for (std::size_t y = 0; y < rows_; ++y) {
      std::int32_t* sums = sums_ + y * stride_;
      std::fill(sums, sums + stride_, -zeros_[0]);
      if (proto_.spec->nchw) {
        planes(point<T>(y, 0), digit_[0], sums);
      } else {
        const T* from = point<T>(y, 0);
        for (std::size_t x = 0; x < stride_; ++x, from += k_) sums[x] += k_ == 32 ? dot<32>(from, digit_[0]) : dot<0>(from, digit_[0]);
      }
      float* values = values_ + y * stride_;
      for (std::size_t x = 0; x < stride_; ++x) values[x] = static_cast<float>(sums[x]);
    }
  }

  // Fill ``digit_`` and ``zeros_``; false where float64 might round.
  bool digits() noexcept {
    float most = 0, least = std::numeric_limits<float>::infinity();
    for (std::size_t c = 0; c < k_; ++c) {
      const float size = std::fabs(coeff_[c]);
      if (!(size < 1e20f)) return false;
      most = size > most ? size : most;
      least = size > 0 && size < least ? size : least;
    }
    if (!(most > 1e-10f) || !(least * 16384.0f > most)) return false;
    int exponent;
    std::frexp(most, &exponent);
    const double unit = std::ldexp(1.0, 46 - exponent);
    for (std::int32_t& zero : zeros_) zero = 0;
    for (std::size_t c = 0; c < k_; ++c) {
      std::int64_t rest = static_cast<std::int64_t>(factors_[c] * unit);
      for (int d = 2; d >= 0; --d) {
        const std::int64_t digit = ((rest + 32768) & 0xFFFF) - 32768;
        digit_[d][c] = static_cast<std::int16_t>(digit);
        zeros_[d] += static_cast<std::int32_t>(digit);
        rest = (rest - digit) / 65536;
      }
    }
    for (std::int32_t& zero : zeros_) zero *= static_cast<std::int32_t>(zero_);
    return true;
  }

  template <std::size_t kFixed, class T>
  std::int32_t dot(const T* from, const std::int16_t* by) const noexcept {
    std::int32_t sum = 0;
    for (std::size_t c = 0; c < (kFixed ? kFixed : k_); ++c) sum += static_cast<std::int32_t>(from[c]) * by[c];
    return sum;
  }

  // All three digits: a power of two times the logit.
  template <class T>
  float whole(std::size_t y, std::size_t x) const noexcept {
    const T* from = point<T>(y, x);
    std::int32_t middle = 0, low = 0;
    if (step_ == 1 && k_ == 32) {
      middle = dot<32>(from, digit_[1]), low = dot<32>(from, digit_[2]);
    } else {
      for (std::size_t c = 0; c < k_; ++c) {
        const std::int32_t value = from[c * step_];
        middle += value * digit_[1][c], low += value * digit_[2][c];
      }
    }
    const std::int64_t first = sums_[y * stride_ + x], second = middle - zeros_[1], third = low - zeros_[2];
    return static_cast<float>((first * 65536 + second) * 65536 + third);
  }

  // sums[x] += by[c] * value of channel c at x, for all channels; eight at once, for each sum is read and written then.
  template <class T, class By, class Sum>
  void planes(const T* from, const By* by, Sum* __restrict sums) const noexcept {
    std::size_t c = 0;
    for (; c + 8 <= k_; c += 8) {
      const T* line = from + c * plane_;
      for (std::size_t x = 0; x < stride_; ++x) {
        Sum sum = sums[x];
        for (std::size_t i = 0; i < 8; ++i) sum += static_cast<Sum>(line[i * plane_ + x]) * by[c + i];
        sums[x] = sum;
      }
    }
    for (; c < k_; ++c) {
      for (std::size_t x = 0; x < stride_; ++x) sums[x] += static_cast<Sum>(from[c * plane_ + x]) * by[c];
    }
  }

  // Sums in float32: off by k + 1 roundings of what the sum of the absolute products can be at most.
  void reals() noexcept {
    double bound = 0;
    for (std::size_t c = 0; c < k_; ++c) bound += std::fabs(double(coeff_[c]));
    bound *= most_;
    if (!(most_ < 1e30f && bound > 1e-20 && bound < 1e30)) return unknown();
    margin_ = static_cast<float>(bound * (1.3e-7 * double(k_) + 1e-5));
    for (std::size_t y = 0; y < rows_; ++y) {
      const float* from = point<float>(y, 0);
      float* values = values_ + y * stride_;
      if (proto_.spec->nchw) {
        std::fill(values, values + stride_, 0.0f);
        planes(from, coeff_, values);
      } else {
        for (std::size_t x = 0; x < stride_; ++x, from += k_) values[x] = lanes(from);
      }
    }
  }

  float lanes(const float* from) const noexcept {
    float part[8] = {0, 0, 0, 0, 0, 0, 0, 0}, sum = 0;
    std::size_t c = 0;
    for (; c + 8 <= k_; c += 8) {
      for (std::size_t i = 0; i < 8; ++i) part[i] += from[c + i] * coeff_[c + i];
    }
    for (; c < k_; ++c) sum += from[c] * coeff_[c];
    for (float p : part) sum += p;
    return sum;
  }

  // The largest absolute value: floats without their sign are ordered like integers, infinities and NaN above all.
  static float largest(const float* values, std::size_t n) noexcept {
    std::uint32_t most = 0;
    for (std::size_t i = 0; i < n; ++i) {
      std::uint32_t bits;
      std::memcpy(&bits, values + i, 4);
      bits &= 0x7FFFFFFFu;
      most = bits > most ? bits : most;
    }
    float out;
    std::memcpy(&out, &most, 4);
    return out;
  }

  Image proto_;
  std::size_t k_ = 0, width_ = 0, plane_ = 0, step_ = 1, row_ = 0, col_ = 0, rows_ = 0, cols_ = 0, stride_ = 0, shift_ = 0;
  double zero_ = 0;
  float margin_ = -1;
  float most_ = 0;  // no absolute value is above it; a NaN is above all
  const float* coeff_ = nullptr;
  bool split_ = false;  // whether the digits are exact
  std::int16_t* digit_[3] = {nullptr, nullptr, nullptr};
  std::int32_t zeros_[3] = {0, 0, 0};
  double *factors_ = nullptr, *point_ = nullptr;
  std::int32_t* sums_ = nullptr;
  float* values_ = nullptr;
};

}  // namespace detail
}  // namespace edgeseg
