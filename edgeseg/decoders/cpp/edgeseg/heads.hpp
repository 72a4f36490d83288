// The three head layouts: which outputs they have, and how boxes are read from them.
#pragma once

#include "decode.hpp"

namespace edgeseg {
namespace detail {

struct Found {
  Candidate* all = nullptr;
  std::size_t count = 0;
};

constexpr Status kNoRoom{Error::memory, "no memory, or more than the limit of the decoder"};

inline Status too_many(std::size_t cells) noexcept {
  return cells > 0xFFFFFFFFu ? Status{Error::tensors, "an output has too many cells"} : Status{};
}

// Sort the outputs by role and stride. As in a dictionary, the last of two equal ones counts.
inline Status sorted(const Manifest& m, const Tensor* tensors, std::size_t count, int index, Arena& arena, Heads& out) noexcept {
  if (count != m.outputs.size()) return {Error::tensors, "the model gave another number of outputs than its manifest names"};
  for (std::size_t i = 0; i < count; ++i) {
    const Spec& spec = m.outputs[i];
    Image image;
    if (Status s = Image::of(tensors[i], spec, index, image); !s) return s;
    if (!image.widen(arena)) return kNoRoom;
    if (spec.role == Role::proto) {
      if (image.rank != 3) return {Error::tensors, "a prototype has four dimensions"};
      if (!image.channels() || !image.cells()) return {Error::tensors, "the prototype is empty"};
      out.proto = image;
      out.has_proto = true;
      continue;
    }
    if (spec.role == Role::prediction) {
      out.prediction = image;
      out.has_prediction = true;
      continue;
    }
    const int stride = m.head == Head::raw ? spec.stride : 0;
    std::size_t at = 0;
    while (at < out.count && out.maps[at].stride < stride) ++at;
    if (at == out.count || out.maps[at].stride != stride) {
      if (out.count == kMostMaps) return {Error::tensors, "the manifest names too many strides"};
      for (std::size_t k = out.count++; k > at; --k) out.maps[k] = out.maps[k - 1];
      out.maps[at] = Heads::Map{};
      out.maps[at].stride = stride;
    }
    Heads::Map& map = out.maps[at];
    if (spec.role == Role::box) map.box = image, map.has_box = true;
    if (spec.role == Role::score) map.score = image, map.has_score = true;
    if (spec.role == Role::coeff) map.coeff = image, map.has_coeff = true;
  }
  return {};
}

constexpr Status kChannels{Error::tensors, "an output has other channels than its manifest says"};
constexpr Status kUneven{Error::tensors, "the outputs of one stride have different sizes"};

inline Status raw(const Manifest& m, Heads& h, const Settings& s, Arena& arena, Found& found) noexcept {
  const Status wrong{Error::tensors, "the manifest's outputs are no raw head"};
  if (!h.count || h.has_prediction || h.has_proto != m.segment) return wrong;
  const std::size_t bins = static_cast<std::size_t>(m.reg_max), nc = m.names.size();
  std::size_t room = 0;
  for (std::size_t i = 0; i < h.count; ++i) {
    const Heads::Map& map = h.maps[i];
    if (!map.has_box || !map.has_score || map.has_coeff != h.has_proto) return wrong;
    if (map.box.channels() != 4 * bins || map.score.channels() != nc) return kChannels;
    if (map.has_coeff && map.coeff.channels() != h.proto.channels()) return kChannels;
    const std::size_t cells = map.score.cells();
    if (map.box.rank != 3 || map.box.cells() != cells || (map.has_coeff && map.coeff.cells() != cells)) return kUneven;
    if (Status many = too_many(cells); !many) return many;
    room += s.multi_label ? cells * nc : cells;
  }
  found.all = arena.take<Candidate>(room);
  float* sides = arena.take<float>(4 * bins);
  if (!found.all || !sides) return kNoRoom;
  for (std::size_t i = 0; i < h.count; ++i) {
    const Table score = Table::of(h.maps[i].score);
    Scan scan{score, logit(s.conf) - kMargin, float(s.conf), true, s.multi_label, std::uint32_t(i), found.all, found.count};
    scan.run();
    found.count = scan.count;
    if (h.has_proto) h.coeffs[i] = Table::of(h.maps[i].coeff);
  }
  if (!best(found.all, found.count, kMostCandidates, arena)) return kNoRoom;
  for (std::size_t i = 0; i < found.count; ++i) {
    Candidate& c = found.all[i];
    if (i && c.cell == found.all[i - 1].cell && c.map == found.all[i - 1].map) {
      std::copy(found.all[i - 1].box, found.all[i - 1].box + 4, c.box);
      continue;
    }
    const Heads::Map& map = h.maps[c.map];
    Table::of(map.box).row(c.cell, sides);
    const float unit = static_cast<float>(map.stride);
    const float x = float(c.cell % map.box.width()) + 0.5f, y = float(c.cell / map.box.width()) + 0.5f;
    for (std::size_t side = 0; side < 4; ++side) {
      const float d = bins > 1 ? distance(sides + side * bins, bins) : sides[side];
      const float centre = side % 2 ? y : x;
      c.box[side] = (side < 2 ? centre - d : centre + d) * unit;
    }
  }
  return {};
}

// Height and width by which shares of the input become pixels; 1 where boxes are pixels already.
inline void units(const Manifest& m, const Heads& h, float (&out)[4]) noexcept {
  float height = 1, width = 1;
  if (m.normalized_boxes) {
    const bool grid = m.dynamic && h.has_proto;
    height = grid ? static_cast<float>(4.0 * double(h.proto.height())) : static_cast<float>(m.imgsz[0]);
    width = grid ? static_cast<float>(4.0 * double(h.proto.width())) : static_cast<float>(m.imgsz[1]);
  }
  out[0] = out[2] = width;
  out[1] = out[3] = height;
}

inline Status decoded(const Manifest& m, Heads& h, const Settings& s, Arena& arena, Found& found) noexcept {
  const Status wrong{Error::tensors, "the manifest's outputs are no decoded head"};
  const Heads::Map& map = h.maps[0];
  if (h.has_proto != m.segment || h.has_prediction == (h.count > 0) || m.outputs.size() > 4) return wrong;
  const std::size_t nc = m.names.size(), k = h.has_proto ? h.proto.channels() : 0;
  Table box, score;
  std::size_t parts = 1;
  if (h.has_prediction) {
    if (h.prediction.channels() != 4 + nc + k) return kChannels;
    const Table whole = Table::of(h.prediction);
    box = whole.part(0, 4), score = whole.part(4, nc), h.coeffs[0] = whole.part(4 + nc, k);
  } else {
    if (!map.has_box || !map.has_score || map.has_coeff != h.has_proto) return wrong;
    box = Table::of(map.box), score = Table::of(map.score);
    if (map.has_coeff) h.coeffs[0] = Table::of(map.coeff);
    if (box.channels != 4 || score.channels != nc || (map.has_coeff && h.coeffs[0].channels != k)) return kChannels;
    if (box.cells != score.cells || (map.has_coeff && h.coeffs[0].cells != score.cells)) return kUneven;
    parts = 2 + map.has_coeff;
  }
  if (m.outputs.size() != parts + h.has_proto) return wrong;  // a role twice
  if (Status many = too_many(score.cells); !many) return many;
  found.all = arena.take<Candidate>(s.multi_label ? score.cells * nc : score.cells);
  if (!found.all) return kNoRoom;
  const double threshold = m.score_logits ? logit(s.conf) - kMargin : s.conf - rounded(kMargin * std::max(s.conf, 1e-6));
  if (nc) {
    Scan scan{score, threshold, float(s.conf), m.score_logits, s.multi_label, 0, found.all, 0};
    scan.run();
    found.count = scan.count;
  }
  if (!best(found.all, found.count, kMostCandidates, arena)) return kNoRoom;
  float unit[4];
  units(m, h, unit);
  for (std::size_t i = 0; i < found.count; ++i) {
    Candidate& c = found.all[i];
    box.row(c.cell, c.box);
    for (int side = 0; side < 4; ++side) c.box[side] = rounded(c.box[side] * unit[side]);
    if (!m.boxes_xyxy) from_xywh(c.box);
  }
  return {};
}

// Rows that the model itself suppressed: x1, y1, x2, y2, score, class, coefficients; unused ones have score 0.
inline Status suppressed(const Manifest& m, Heads& h, const Settings& s, Arena& arena, Found& found) noexcept {
  const std::size_t outputs = m.segment ? 2 : 1;
  if (!h.has_prediction || h.count || h.has_proto != m.segment || m.outputs.size() != outputs) {
    return {Error::tensors, "the manifest's outputs are no head after NMS"};
  }
  const std::size_t k = h.has_proto ? h.proto.channels() : 0;
  if (h.prediction.channels() != 6 + k) return kChannels;
  const Table whole = Table::of(h.prediction), head = whole.part(0, 6);
  h.coeffs[0] = whole.part(6, k);
  if (Status many = too_many(whole.cells); !many) return many;
  found.all = arena.take<Candidate>(whole.cells);
  if (!found.all) return kNoRoom;
  float unit[4], row[6];
  units(m, h, unit);
  for (std::size_t i = 0; i < whole.cells; ++i) {
    head.row(i, row);
    const float cls = std::nearbyint(row[5]);
    if (!(row[4] >= static_cast<float>(s.conf) && row[4] > 0 && cls >= 0 && cls < static_cast<float>(m.names.size()))) continue;
    Candidate& c = found.all[found.count++];
    for (int side = 0; side < 4; ++side) c.box[side] = row[side] * unit[side];
    c.score = row[4];
    c.cls = static_cast<std::int32_t>(cls);
    c.cell = static_cast<std::uint32_t>(i);
    c.map = 0;
  }
  std::sort(found.all, found.all + found.count, [](const Candidate& a, const Candidate& b) noexcept {
    return a.score > b.score || (a.score == b.score && a.cell < b.cell);
  });
  found.count = std::min(found.count, kMostCandidates);
  for (std::size_t i = 0; i < found.count; ++i) found.all[i].score = std::min(found.all[i].score, 1.0f);
  return {};
}

// Drop boxes that are not finite, and classes that nobody wants.
inline void sift(const Settings& s, Found& found) noexcept {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < found.count; ++i) {
    const Candidate& c = found.all[i];
    const bool wanted = !s.classes || std::find(s.classes, s.classes + s.class_count, c.cls) != s.classes + s.class_count;
    if (wanted && finite(c.box)) found.all[kept++] = c;
  }
  found.count = kept;
}

}  // namespace detail
}  // namespace edgeseg
