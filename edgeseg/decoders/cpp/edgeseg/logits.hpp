// Logits of masks on the grid of the prototype: dot products in float64, rounded to float32, as edgeseg.vision.masks has them.
//
// Most are never needed: first a cheap sum with a bound of its error gives the sign, the rest follows where somebody asks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base.hpp"
#include "table.hpp"

namespace edgeseg {
namespace detail {

// Signs of one mask's logits on a window of the grid, and the logits themselves where somebody asks.
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
    real_ = arena.take<float>(width_);
    signs_ = arena.take<std::int8_t>(plane_);
    values_ = arena.take<float>(plane_);
    if (!factors_ || !point_ || !sums_ || !real_ || !signs_ || !values_) return false;
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
    coeff_ = coeff, row_ = row, col_ = col, rows_ = rows, cols_ = cols;
    for (std::size_t c = 0; c < k_; ++c) factors_[c] = coeff[c];
    switch (proto_.type) {
      case Type::float32: return reals();
      case Type::int8: return integers<std::int8_t>();
      case Type::uint8: return integers<std::uint8_t>();
      case Type::int16: return unknown();
    }
  }

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  const std::int8_t* signs(std::size_t y) const noexcept { return signs_ + y * cols_; }

  // The logit up to a positive factor.
  float at(std::size_t y, std::size_t x) noexcept {
    const std::size_t i = y * cols_ + x;
    if (signs_[i] & kKept) return values_[i];
    signs_[i] = static_cast<std::int8_t>(signs_[i] | kKept);
    switch (proto_.type) {
      case Type::float32: return values_[i] = exact<float>(y, x);
      case Type::int8: return values_[i] = split_ ? whole<std::int8_t>(y, x) : exact<std::int8_t>(y, x);
      case Type::uint8: return values_[i] = split_ ? whole<std::uint8_t>(y, x) : exact<std::uint8_t>(y, x);
      case Type::int16: return values_[i] = exact<std::int16_t>(y, x);
    }
    return 0;
  }

  static constexpr std::int8_t kPositive = 1, kNegative = 2, kKept = 4;

 private:
  template <class T>
  const T* point(std::size_t y, std::size_t x) const noexcept {
    return static_cast<const T*>(proto_.data) + ((row_ + y) * width_ + col_ + x) * (proto_.spec->nchw ? 1 : k_);
  }

  template <class T>
  float exact(std::size_t y, std::size_t x) noexcept {
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

  template <class T>
  static void signs(const T* sums, T margin, std::int8_t* __restrict out, std::size_t n) noexcept {
    for (std::size_t x = 0; x < n; ++x) {
      const int above = sums[x] > margin, below = sums[x] < -margin;
      out[x] = static_cast<std::int8_t>(above * kPositive + below * kNegative);
    }
  }

  void unknown() noexcept { std::fill(signs_, signs_ + rows_ * cols_, std::int8_t(0)); }

  // Coefficients as integers of 47 bits, in three digits of 16. The sums of the first digit, in 32 bits, are off by half a
  // step a channel at most; the margin is twice that, far more than what float32 rounds between four corners. Where no
  // coefficient is 2^14 times another, the sums of all three are what float64 has, exactly.
  template <class T>
  void integers() noexcept {
    using Limits = std::numeric_limits<T>;
    split_ = zero_ >= Limits::min() && zero_ <= Limits::max() && k_ <= 128 && digits();
    if (!split_) return unknown();
    const std::int32_t margin = 256 * static_cast<std::int32_t>(k_);
    for (std::size_t y = 0; y < rows_; ++y) {
      std::int32_t* sums = sums_ + y * cols_;
      std::fill(sums, sums + cols_, -shift_[0]);
      if (proto_.spec->nchw) {
        planes(point<T>(y, 0), digit_[0], sums);
      } else {
        const T* from = point<T>(y, 0);
        for (std::size_t x = 0; x < cols_; ++x, from += k_) sums[x] += k_ == 32 ? dot<32>(from, digit_[0]) : dot<0>(from, digit_[0]);
      }
      signs(sums, margin, signs_ + y * cols_, cols_);
    }
  }

  // Fill ``digit_`` and ``shift_``; false where float64 might round.
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
    for (std::int32_t& shift : shift_) shift = 0;
    for (std::size_t c = 0; c < k_; ++c) {
      std::int64_t rest = static_cast<std::int64_t>(factors_[c] * unit);
      for (int d = 2; d >= 0; --d) {
        const std::int64_t digit = ((rest + 32768) & 0xFFFF) - 32768;
        digit_[d][c] = static_cast<std::int16_t>(digit);
        shift_[d] += static_cast<std::int32_t>(digit);
        rest = (rest - digit) / 65536;
      }
    }
    for (std::int32_t& shift : shift_) shift *= static_cast<std::int32_t>(zero_);
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
    const std::int64_t first = sums_[y * cols_ + x], second = middle - shift_[1], third = low - shift_[2];
    return static_cast<float>((first * 65536 + second) * 65536 + third);
  }

  // sums[x] += by[c] * value of channel c at x, for all channels; eight at once, for each sum is read and written then.
  template <class T, class By, class Sum>
  void planes(const T* from, const By* by, Sum* __restrict sums) const noexcept {
    std::size_t c = 0;
    for (; c + 8 <= k_; c += 8) {
      const T* line = from + c * plane_;
      for (std::size_t x = 0; x < cols_; ++x) {
        Sum sum = sums[x];
        for (std::size_t i = 0; i < 8; ++i) sum += static_cast<Sum>(line[i * plane_ + x]) * by[c + i];
        sums[x] = sum;
      }
    }
    for (; c < k_; ++c) {
      for (std::size_t x = 0; x < cols_; ++x) sums[x] += static_cast<Sum>(from[c * plane_ + x]) * by[c];
    }
  }

  // Sums in float32: off by k + 1 roundings of what the sum of the absolute products can be at most.
  void reals() noexcept {
    double bound = 0;
    for (std::size_t c = 0; c < k_; ++c) bound += std::fabs(double(coeff_[c]));
    bound *= most_;
    if (!(most_ < 1e30f && bound > 1e-20 && bound < 1e30)) return unknown();
    const float margin = static_cast<float>(bound * (1.3e-7 * double(k_) + 1e-5));
    for (std::size_t y = 0; y < rows_; ++y) {
      const float* from = point<float>(y, 0);
      if (proto_.spec->nchw) {
        std::fill(real_, real_ + cols_, 0.0f);
        planes(from, coeff_, real_);
      } else {
        for (std::size_t x = 0; x < cols_; ++x, from += k_) real_[x] = lanes(from);
      }
      signs(real_, margin, signs_ + y * cols_, cols_);
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
  std::size_t k_ = 0, width_ = 0, plane_ = 0, step_ = 1, row_ = 0, col_ = 0, rows_ = 0, cols_ = 0;
  double zero_ = 0;
  float most_ = 0;  // no absolute value is above it; a NaN is above all
  const float* coeff_ = nullptr;
  bool split_ = false;  // whether the digits are exact
  std::int16_t* digit_[3] = {nullptr, nullptr, nullptr};
  std::int32_t shift_[3] = {0, 0, 0};
  double *factors_ = nullptr, *point_ = nullptr;
  std::int32_t* sums_ = nullptr;
  float* real_ = nullptr;
  std::int8_t* signs_ = nullptr;
  float* values_ = nullptr;
};

}  // namespace detail
}  // namespace edgeseg
