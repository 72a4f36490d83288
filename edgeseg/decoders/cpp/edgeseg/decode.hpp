// From output tensors to candidates, in the order and with the ties of edgeseg.vision.decode.
//
// Scores are compared first, in the tensor's own numbers, a hair too generously; the survivors' float32 scores then decide.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "base.hpp"
#include "geometry.hpp"
#include "manifest.hpp"
#include "table.hpp"

namespace edgeseg {

struct Settings {
  double conf = 0.25;         // lowest score, 0..1
  double iou = 0.7;           // boxes of one class that overlap by more are the same object
  int max_det = 300;          // how many detections at most
  bool multi_label = false;   // one place may be several classes
  bool masks = true;          // false spares them
  int index = 0;              // which image of the batch
  const int* classes = nullptr;  // only these ``class_count`` classes; nullptr: all
  std::size_t class_count = 0;
};

// A detection before suppression: its box in input pixels, and where its coefficients are.
struct Candidate {
  float box[4];
  float score;
  std::int32_t cls;
  std::uint32_t cell;
  std::uint32_t map;
};

constexpr std::size_t kMostCandidates = 30000;
constexpr std::size_t kMostMaps = 16;

// The outputs of one image by what they are for.
struct Heads {
  struct Map {
    int stride = 0;
    Image box, score, coeff;
    bool has_box = false, has_score = false, has_coeff = false;
  };
  Map maps[kMostMaps];  // raw: by rising stride; else the first alone
  std::size_t count = 0;
  Image prediction, proto;
  bool has_prediction = false, has_proto = false;
  Table coeffs[kMostMaps];  // of each map
};

namespace detail {

constexpr double kMargin = 1e-3;

inline double logit(double p) noexcept { return p < 1e-30 ? -70.0 : p > 1 - 1e-7 ? 16.0 : std::log(p / (1 - p)); }

inline float sigmoid(float x) noexcept { return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(x)))); }

template <class T>
struct Hit {  // an unsigned integer as wide as T: comparisons of many values at once fit it
  using type = std::uint8_t;
};
template <>
struct Hit<float> {
  using type = std::uint32_t;
};
template <>
struct Hit<std::int16_t> {
  using type = std::uint16_t;
};

// The threshold in the tensor's own numbers; false when no value can reach it.
inline bool lowest(double threshold, float, const Spec&, float& out) noexcept {
  out = static_cast<float>(threshold);
  return true;
}
template <class T>
inline bool lowest(double threshold, T, const Spec& spec, T& out) noexcept {
  using Limits = std::numeric_limits<T>;
  const double least = threshold / spec.scale + spec.zero_point;
  if (!(least <= Limits::max())) return false;
  out = least <= Limits::min() ? Limits::min() : static_cast<T>(std::ceil(least));
  return true;
}

// What survives the threshold, appended to ``out`` in the order of cells, then classes.
struct Scan {
  const Table& score;
  double threshold;
  float conf;
  bool logits, several;
  std::uint32_t map;
  Candidate* out;
  std::size_t count;

  void run() noexcept {
    switch (score.type) {
      case Type::float32: return all<float>();
      case Type::int8: return all<std::int8_t>();
      case Type::uint8: return all<std::uint8_t>();
      case Type::int16: return all<std::int16_t>();
      case Type::float16: return;  // is float32 by now
    }
  }

 private:
  template <class T>
  void all() noexcept {
    T least;
    if (!lowest(threshold, T(), *score.spec, least)) return;
    const T* values = static_cast<const T*>(score.data) + score.first;
    if (score.step_channel == 1) {
      rows(values, least);
    } else {
      planes(values, least);
    }
  }

  // Channels last: most groups of cells hold nothing, which is seen without looking at single ones.
  template <class T>
  void rows(const T* values, T least) noexcept {
    const bool dense = score.step_cell == score.channels;
    const std::size_t group = dense ? std::max<std::size_t>(1, 512 / score.channels) : 1;
    for (std::size_t start = 0; start < score.cells; start += group) {
      const std::size_t n = std::min(group, score.cells - start);
      if (!reaches(values + start * score.step_cell, n * score.channels, least)) continue;
      for (std::size_t at = start; at < start + n; ++at) {
        if (reaches(values + at * score.step_cell, score.channels, least)) cell(values, at, least);
      }
    }
  }

  // Whether one of n values is at least ``least``; NaN is not.
  template <class T>
  static bool reaches(const T* values, std::size_t n, T least) noexcept {
    if constexpr (std::numeric_limits<T>::is_integer) {
      T most = std::numeric_limits<T>::min();
      for (std::size_t i = 0; i < n; ++i) most = values[i] > most ? values[i] : most;
      return most >= least;
    } else {
      typename Hit<T>::type any = 0;
      for (std::size_t i = 0; i < n; ++i) any |= static_cast<typename Hit<T>::type>(values[i] >= least);
      return any != 0;
    }
  }

  // Channels first: blocks of cells, eight channels at once, for each hit is read and written then.
  template <class T>
  void planes(const T* values, T least) noexcept {
    using Bits = typename Hit<T>::type;
    constexpr std::size_t kBlock = 512;
    constexpr Bits kAll = static_cast<Bits>(~Bits(0));  // what a comparison of many gives
    Bits hit[kBlock];
    const std::size_t step = score.step_channel;
    for (std::size_t start = 0; start < score.cells; start += kBlock) {
      const std::size_t n = std::min(kBlock, score.cells - start);
      const T* row = values + start;
      std::fill(hit, hit + n, Bits(0));
      std::size_t c = 0;
      for (; c + 8 <= score.channels; c += 8) {
        const T* from = row + c * step;
        for (std::size_t i = 0; i < n; ++i) {
          Bits any = hit[i];
          for (std::size_t k = 0; k < 8; ++k) any = static_cast<Bits>(any | (from[k * step + i] >= least ? kAll : Bits(0)));
          hit[i] = any;
        }
      }
      for (; c < score.channels; ++c) {
        for (std::size_t i = 0; i < n; ++i) hit[i] = static_cast<Bits>(hit[i] | Bits(row[c * step + i] >= least));
      }
      for (std::size_t i = 0; i < n; ++i) {
        if (hit[i]) cell(values, start + i, least);
      }
    }
  }

  template <class T>
  void cell(const T* values, std::size_t at, T least) noexcept {
    const T* row = values + at * score.step_cell;
    if (several) {
      for (std::size_t c = 0; c < score.channels; ++c) {
        const T v = row[c * score.step_channel];
        if (v >= least) keep(static_cast<float>(v), c, at);
      }
      return;
    }
    T best = row[0];
    std::size_t cls = 0;
    bool sound = best == best;
    for (std::size_t c = 1; c < score.channels; ++c) {
      const T v = row[c * score.step_channel];
      sound = sound && v == v;
      if (v > best) best = v, cls = c;
    }
    if (sound) keep(static_cast<float>(best), cls, at);  // a cell with a NaN has no best class
  }

  void keep(float raw, std::size_t cls, std::size_t at) noexcept {
    const float real = score.real(raw);
    // A coarse scale or a half-precision sigmoid may overshoot 1.
    const float s = logits ? sigmoid(real) : real > 1 ? 1 : real;
    if (!(s >= conf)) return;
    Candidate& c = out[count++];
    c.score = s;
    c.cls = static_cast<std::int32_t>(cls);
    c.cell = static_cast<std::uint32_t>(at);
    c.map = map;
  }
};

// Keep the best ``most``, of equal scores the first; false without memory.
inline bool best(Candidate* all, std::size_t& count, std::size_t most, Arena& arena) noexcept {
  if (count <= most) return true;
  float* scores = arena.take<float>(count);
  if (!scores) return false;
  for (std::size_t i = 0; i < count; ++i) scores[i] = all[i].score;
  std::nth_element(scores, scores + (count - most), scores + count);
  const float limit = scores[count - most];
  std::size_t above = 0, kept = 0;
  for (std::size_t i = 0; i < count; ++i) above += all[i].score > limit;
  std::size_t equal = most - above;
  for (std::size_t i = 0; i < count; ++i) {
    const bool stays = all[i].score > limit || (all[i].score == limit && equal > 0 && equal--);
    if (stays) all[kept++] = all[i];
  }
  count = kept;
  return true;
}

// Expected distance of a side from the logits of its bins (Li et al. 2020, "Generalized Focal Loss").
inline float distance(const float* logits, std::size_t bins) noexcept {
  double most = logits[0];
  for (std::size_t i = 1; i < bins; ++i) most = logits[i] > most ? logits[i] : most;
  double sum = 0, weighted = 0;
  for (std::size_t i = 0; i < bins; ++i) {
    const double e = std::exp(logits[i] - most);
    sum += e;
    weighted += e * static_cast<double>(i);
  }
  return static_cast<float>(weighted / sum);
}

// Centre and sides -> corners.
inline void from_xywh(float (&b)[4]) noexcept {
  const float x = b[0], y = b[1], w = rounded(b[2] * 0.5f), h = rounded(b[3] * 0.5f);
  b[0] = x - w, b[1] = y - h, b[2] = x + w, b[3] = y + h;
}

inline bool finite(const float (&b)[4]) noexcept {
  return std::isfinite(b[0]) && std::isfinite(b[1]) && std::isfinite(b[2]) && std::isfinite(b[3]);
}

}  // namespace detail
}  // namespace edgeseg
