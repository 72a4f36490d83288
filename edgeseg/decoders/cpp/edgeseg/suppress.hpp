// Class-aware non-maximum suppression: greedy, with the arithmetic and the ties of edgeseg.vision.postprocess.
//
// Many boxes are not all compared: those that stayed lie in the cells of grids, one grid for each width and height of boxes. What overlaps
// a box by more than a share t of the union is at least t times as large along either axis, and at most 1 - t of the larger
// of the two away.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>

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

// Grids of the boxes that stayed; two of different cells or classes may share a bucket, which costs a comparison.
class Grids {
 public:
  bool prepare(std::size_t count, float iou, Arena& arena) noexcept {
    share_ = iou < 1e-6f ? 0 : std::min(double(iou), 1.0) * (1 - 1e-5);  // a hair less, for float32 rounds
    mask_ = 1;
    while (mask_ < 4 * count) mask_ *= 2;
    bucket_ = arena.take<std::uint32_t>(mask_);
    next_ = arena.take<std::uint32_t>(count);
    before_ = arena.take<std::uint32_t>(count);
    grids_ = arena.take<Grid>(std::min(count, kLevels * kLevels));
    at_ = arena.take<std::uint16_t>(kLevels * kLevels);
    if (!bucket_ || !next_ || !before_ || !grids_ || !at_) return false;
    std::fill(bucket_, bucket_ + mask_--, kNone);
    std::fill(at_, at_ + kLevels * kLevels, std::uint16_t(0));
    return true;
  }

  // Note a box that stays.
  void add(std::uint32_t box, const Candidate& c) noexcept {
    const std::size_t across = level_of(side(c, 0)), down = level_of(side(c, 1));
    std::uint16_t& at = at_[across * kLevels + down];
    if (!at) {
      grids_[used_] = Grid{{Scale::of(across, share_), Scale::of(down, share_)}, kNone, 0};
      at = static_cast<std::uint16_t>(++used_);
    }
    Grid& grid = grids_[at - 1];
    std::uint32_t& head = bucket_[slot(c.cls, at - 1u, index(c.box[0], grid.scale[0]), index(c.box[1], grid.scale[1]))];
    next_[box] = head, head = box;
    before_[box] = grid.last, grid.last = box;
    ++grid.count;
  }

  // Whether ``hits(box)`` for a box that may overlap ``c``, whose area is ``own``.
  template <class Hits>
  bool any(const Candidate& c, float own, const Hits& hits) const noexcept {
    const double share = own < 1e-30f ? 0 : share_;  // the areas of tiny ones are rounded coarsely
    for (std::size_t g = 0; g < used_; ++g) {
      const Grid& grid = grids_[g];
      std::int64_t low[2], high[2];
      if (!reach(c, 0, grid.scale[0], share, low[0], high[0]) || !reach(c, 1, grid.scale[1], share, low[1], high[1])) continue;
      if (double(high[0] - low[0] + 1) * double(high[1] - low[1] + 1) >= grid.count) {
        for (std::uint32_t box = grid.last; box != kNone; box = before_[box]) {
          if (hits(box)) return true;
        }
        continue;
      }
      for (std::int64_t y = low[1]; y <= high[1]; ++y) {
        for (std::int64_t x = low[0]; x <= high[0]; ++x) {
          for (std::uint32_t box = bucket_[slot(c.cls, g, x, y)]; box != kNone; box = next_[box]) {
            if (hits(box)) return true;
          }
        }
      }
    }
    return false;
  }

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
  static constexpr int kLeast = -10;  // sides of 2^-10 to 2^29 pixels; smaller and larger ones share the ends
  static constexpr std::size_t kLevels = 40;

  struct Scale {
    double lower, upper, cell;  // sides of boxes along the axis, and of the cells

    static Scale of(std::size_t level, double share) noexcept {
      const double side = std::ldexp(1.0, int(level) + kLeast);
      return {level ? side : 0, level < kLevels - 1 ? 2 * side : 1e300, 2 * side * std::max(1 - share, 1.0 / 16)};
    }
  };
  struct Grid {
    Scale scale[2];
    std::uint32_t last, count;
  };

  static double side(const Candidate& c, int axis) noexcept { return double(c.box[2 + axis]) - c.box[axis]; }

  static std::size_t level_of(double side) noexcept {
    return static_cast<std::size_t>(std::min(std::max(std::ilogb(side) - kLeast, 0), int(kLevels) - 1));
  }

  static std::int64_t index(double at, const Scale& scale) noexcept {
    return static_cast<std::int64_t>(std::floor(std::min(std::max(at / scale.cell, -1e9), 1e9)));
  }

  // The cells where along one axis what overlaps ``c`` may begin; false when no box of that grid can.
  static bool reach(const Candidate& c, int axis, const Scale& of, double share, std::int64_t& low, std::int64_t& high) noexcept {
    const double own = side(c, axis), away = (1 - share) * std::max(own, of.upper) * (1 + 1e-5);
    if (of.upper < share * own || of.lower * share > own) return false;
    low = index(c.box[axis] - std::min(of.upper, away), of);
    high = index(std::min(double(c.box[2 + axis]), c.box[axis] + away), of);
    return true;
  }

  std::size_t slot(std::int32_t cls, std::size_t grid, std::int64_t x, std::int64_t y) const noexcept {
    std::uint64_t key = std::uint64_t(cls) * 65536 + grid;
    for (std::int64_t part : {x, y}) {
      key = (key ^ std::uint64_t(part)) * 0x9E3779B97F4A7C15u;
      key ^= key >> 29;
    }
    return static_cast<std::size_t>(key) & mask_;
  }

  double share_ = 0;
  std::size_t mask_ = 0, used_ = 0;
  std::uint32_t *bucket_ = nullptr, *next_ = nullptr, *before_ = nullptr;  // lists of the boxes of a cell, and of a grid
  Grid* grids_ = nullptr;
  std::uint16_t* at_ = nullptr;  // 1 + the grid of a width and a height
};

constexpr std::size_t kFew = 512;  // so many are all compared

// Reorder ``order`` (by falling score) so that its first entries are those that stay, at most ``most``; how many is ``kept``,
// and how many pairs were compared ``looks``. False without memory.
inline bool suppress(const Candidate* all, std::uint32_t* order, std::size_t count, float iou, std::size_t most, float* areas,
                     Arena& arena, std::size_t& kept, std::size_t& looks) noexcept {
  const bool many = std::min(count, most) > kFew;
  Grids grids;
  if (many && !grids.prepare(count, iou, arena)) return false;
  kept = looks = 0;
  for (std::size_t i = 0; i < count && kept < most; ++i) {
    const Candidate& c = all[order[i]];
    const float own = area(c.box);
    const auto hits = [&](std::size_t k) noexcept {
      const Candidate& before = all[order[k]];
      return before.cls == c.cls && (++looks, overlap(before, areas[k], c, own, iou));
    };
    bool stays = true;
    if (!many) {
      for (std::size_t k = 0; k < kept && stays; ++k) stays = !hits(k);
    } else if (own > 0) {  // else it overlaps nothing
      stays = !grids.any(c, own, hits);
      if (stays) grids.add(static_cast<std::uint32_t>(kept), c);
    }
    if (!stays) continue;
    areas[kept] = own;
    order[kept++] = order[i];
  }
  return true;
}

}  // namespace detail
}  // namespace edgeseg
