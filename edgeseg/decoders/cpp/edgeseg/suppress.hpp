// Class-aware non-maximum suppression: greedy, with the arithmetic and the ties of edgeseg.vision.nms.
#pragma once

#include <algorithm>

#include "decode.hpp"

namespace edgeseg {
namespace detail {

// Fill ``order`` with 0..count-1 by falling score, equal ones in their order.
inline void by_score(const Candidate* all, std::size_t count, std::uint32_t* order) noexcept {
  for (std::size_t i = 0; i < count; ++i) order[i] = static_cast<std::uint32_t>(i);
  std::sort(order, order + count, [all](std::uint32_t a, std::uint32_t b) noexcept {
    return all[a].score > all[b].score || (all[a].score == all[b].score && a < b);
  });
}

inline float area(const float (&b)[4]) noexcept {
  return rounded(std::max(b[2] - b[0], 0.0f) * std::max(b[3] - b[1], 0.0f));
}

inline bool overlap(const Candidate& a, float area_a, const Candidate& b, float area_b, float iou) noexcept {
  const float width = std::min(a.box[2], b.box[2]) - std::max(a.box[0], b.box[0]);
  const float height = std::min(a.box[3], b.box[3]) - std::max(a.box[1], b.box[1]);
  if (!(width > 0 && height > 0) && iou >= 0) return false;  // nothing is in common, and no union is negative
  const float inter = rounded(width * height);
  return inter > rounded((area_a + area_b - inter) * iou);
}

// Reorder ``order`` (by falling score) so that its first entries are those that stay, at most ``most``; how many.
inline std::size_t suppress(const Candidate* all, std::uint32_t* order, std::size_t count, float iou, std::size_t most,
                            float* areas) noexcept {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count && kept < most; ++i) {
    const Candidate& c = all[order[i]];
    const float own = area(c.box);
    bool stays = true;
    for (std::size_t k = 0; k < kept && stays; ++k) {
      const Candidate& before = all[order[k]];
      stays = before.cls != c.cls || !overlap(before, areas[k], c, own, iou);
    }
    if (!stays) continue;
    areas[kept] = own;
    order[kept++] = order[i];
  }
  return kept;
}

}  // namespace detail
}  // namespace edgeseg
