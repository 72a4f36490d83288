// A tensor of one picture as cells x channels, whatever its layout and type.
#pragma once

#include <cmath>
#include <limits>

#include "base.hpp"
#include "manifest.hpp"

namespace edgeseg {

// The image ``index`` of a tensor, whose sizes have been checked against its bytes.
struct Image {
  const void* data = nullptr;
  Type type = Type::float32;
  int rank = 0;  // without the batch: 2 or 3
  std::size_t shape[3] = {0, 0, 0};
  const Spec* spec = nullptr;

  static Status of(const Tensor& t, const Spec& spec, int index, Image& out) noexcept {
    if (t.rank < 3 || t.rank > 4) return {Error::tensors, "an output has neither three nor four dimensions"};
    const bool whole_numbers = t.type != Type::float32 && t.type != Type::float16;
    if (whole_numbers && !spec.quantized) return {Error::tensors, "an output of integers has no scale in the manifest"};
    std::size_t count = 1;
    const std::size_t most = t.bytes / size_of(t.type);
    for (int i = 0; i < t.rank; ++i) {
      const bool fits = t.shape[i] >= 0 && (count == 0 || std::uint64_t(t.shape[i]) <= most / count);
      if (!fits || (i == 0 && t.shape[i] < 1)) return {Error::tensors, "an output's shape and its bytes differ"};
      count *= static_cast<std::size_t>(t.shape[i]);
      if (i) out.shape[i - 1] = static_cast<std::size_t>(t.shape[i]);
    }
    const std::size_t whole = count * size_of(t.type);
    if ((!t.data && whole) || whole != t.bytes) return {Error::tensors, "an output's shape and its bytes differ"};
    if (reinterpret_cast<std::uintptr_t>(t.data) % size_of(t.type)) return {Error::tensors, "an output is not aligned for its type"};
    if (index < 0 || index >= t.shape[0]) return {Error::setting, "the batch has no such image"};
    const std::size_t one = whole / static_cast<std::size_t>(t.shape[0]);
    out.data = whole ? static_cast<const unsigned char*>(t.data) + one * static_cast<std::size_t>(index) : nullptr;
    out.type = t.type;
    out.rank = t.rank - 1;
    out.spec = &spec;
    return {};
  }

  // Halves become float32, for which IEEE 754 has all their values. False without memory.
  bool widen(Arena& arena) noexcept {
    if (type != Type::float16) return true;
    std::size_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    const std::uint16_t* from = static_cast<const std::uint16_t*>(data);
    std::uint32_t* to = arena.take<std::uint32_t>(count);
    if (!to) return false;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t size = from[i] & 0x7FFFu, sign = std::uint32_t(from[i] & 0x8000u) << 16;
      std::uint32_t bits = size << 13;
      float value;
      std::memcpy(&value, &bits, 4);
      value *= 5192296858534827628530496329220096.0f;  // 2^112: the exponents count from 15 and from 127
      std::memcpy(&bits, &value, 4);
      to[i] = sign | (size >= 0x7C00u ? (size << 13) | 0x7F800000u : bits);
    }
    data = to, type = Type::float32;
    return true;
  }

  std::size_t channels() const noexcept { return shape[spec->nchw ? 0 : rank - 1]; }
  std::size_t height() const noexcept { return shape[spec->nchw ? 1 : 0]; }
  std::size_t width() const noexcept { return shape[spec->nchw ? 2 : 1]; }
  std::size_t cells() const noexcept {
    const std::size_t start = spec->nchw ? 1 : 0;
    return rank == 2 ? shape[start] : shape[start] * shape[start + 1];
  }
};

// Some channels of an image: element (cell, channel) is at first + cell * step_cell + channel * step_channel.
struct Table {
  const void* data = nullptr;
  Type type = Type::float32;
  std::size_t first = 0, cells = 0, channels = 0, step_cell = 0, step_channel = 0;
  float zero = 0, scale = 1;
  const Spec* spec = nullptr;

  static Table of(const Image& image) noexcept {
    Table t;
    t.data = image.data;
    t.type = image.type;
    t.cells = image.cells();
    t.channels = image.channels();
    t.step_cell = image.spec->nchw ? 1 : t.channels;
    t.step_channel = image.spec->nchw ? t.cells : 1;
    t.zero = static_cast<float>(image.spec->zero_point);
    t.scale = static_cast<float>(image.spec->scale);
    t.spec = image.spec;
    return t;
  }

  Table part(std::size_t start, std::size_t count) const noexcept {
    Table t = *this;
    t.first += start * step_channel;
    t.channels = count;
    return t;
  }

  // float32 of one raw value, as if everything had been dequantized first.
  float real(float q) const noexcept { return type == Type::float32 ? q : rounded((q - zero) * scale); }

  // All channels of a cell, dequantized.
  void row(std::size_t cell, float* out) const noexcept {
    switch (type) {
      case Type::float32: return copy<float>(cell, out);
      case Type::int8: return copy<std::int8_t>(cell, out);
      case Type::uint8: return copy<std::uint8_t>(cell, out);
      case Type::int16: return copy<std::int16_t>(cell, out);
      case Type::float16: return;  // is float32 by now
    }
  }

 private:
  template <class T>
  void copy(std::size_t cell, float* out) const noexcept {
    const T* from = static_cast<const T*>(data) + first + cell * step_cell;
    for (std::size_t c = 0; c < channels; ++c) out[c] = real(static_cast<float>(from[c * step_channel]));
  }
};

}  // namespace edgeseg
