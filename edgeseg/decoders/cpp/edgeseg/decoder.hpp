// From output tensors to detections on the picture: decode, suppress, map back, masks.
#pragma once

#include <algorithm>
#include <utility>

#include "heads.hpp"
#include "masks.hpp"
#include "suppress.hpp"

namespace edgeseg {

struct Detection {
  float box[4];  // x1, y1, x2, y2 in pixels of the picture, inside it
  float score;   // 0..1
  std::int32_t cls;
  Mask mask;  // empty without masks
};

// Detections by falling score. What they point to lives until the decoder's next run.
struct Result {
  const Detection* detections = nullptr;
  std::size_t count = 0;
  bool has_masks = false;
};

// Decodes the pictures of one artifact, one after the other; not to be shared between threads.
class Decoder {
 public:
  // ``limit``: bytes that one picture may need for candidates and masks.
  explicit Decoder(Manifest manifest, std::size_t limit = std::size_t(1) << 30)
      : manifest_(std::move(manifest)), arena_(limit) {}

  const Manifest& manifest() const noexcept { return manifest_; }

  // ``tensors`` in the manifest's order; ``letterbox`` the geometry of the picture. ``out`` is empty on errors.
  Status run(const Tensor* tensors, std::size_t count, const Letterbox& letterbox, const Settings& settings, Result& out) noexcept {
    out = Result{};
    if (!(settings.conf >= 0 && settings.conf <= 1)) return {Error::setting, "conf is not in 0..1"};
    if (settings.max_det < 0 || !(settings.iou >= 0)) return {Error::setting, "max_det or iou is negative"};
    for (int i = 0; i < 2; ++i) {
      const int sides[3] = {letterbox.source[i], letterbox.size[i], letterbox.resized[i]};
      for (int side : sides) {
        if (side < 1 || side > Letterbox::kMostSide) return {Error::setting, "the letterbox was not made by fit"};
      }
      if (!(letterbox.scale[i] > 0)) return {Error::setting, "the letterbox was not made by fit"};
    }
    arena_.reset();
    Heads heads;
    detail::Found found;
    if (Status s = detail::sorted(manifest_, tensors, count, settings.index, arena_, heads); !s) return s;
    if (Status s = read(heads, settings, found); !s) return s;
    detail::sift(settings, found);
    return finish(heads, letterbox, settings, found, out);
  }

 private:
  Status read(Heads& heads, const Settings& settings, detail::Found& found) noexcept {
    switch (manifest_.head) {
      case Head::raw: return detail::raw(manifest_, heads, settings, arena_, found);
      case Head::decoded: return detail::decoded(manifest_, heads, settings, arena_, found);
      case Head::nms: return detail::suppressed(manifest_, heads, settings, arena_, found);
    }
    return {Error::manifest, "an unknown head layout"};
  }

  Status finish(const Heads& heads, const Letterbox& letterbox, const Settings& settings, const detail::Found& found,
                Result& out) noexcept {
    const std::size_t most = std::min(found.count, std::size_t(settings.max_det));
    std::uint32_t* order = arena_.take<std::uint32_t>(found.count);
    float* areas = arena_.take<float>(most);
    Detection* made = arena_.take<Detection>(most);
    if (!order || !areas || !made) return detail::kNoRoom;
    detail::by_score(found.all, found.count, order);
    std::size_t kept = most, n = 0, looks = 0;
    const bool judged = manifest_.head != Head::nms && !manifest_.end2end;
    if (judged && !detail::suppress(found.all, order, found.count, float(settings.iou), most, areas, arena_, kept, looks)) {
      return detail::kNoRoom;
    }
    for (std::size_t i = 0; i < kept; ++i) {
      const Candidate& c = found.all[order[i]];
      Detection& d = made[n];
      letterbox.to_source(c.box, d.box);
      if (!(d.box[2] > d.box[0] && d.box[3] > d.box[1])) continue;  // nothing of it lies in the picture
      d.score = c.score;
      d.cls = c.cls;
      d.mask = Mask{};
      order[n++] = order[i];
    }
    const bool masks = settings.masks && heads.has_proto;
    if (masks && n) {
      if (Status s = draw(heads, letterbox, found.all, order, made, n); !s) return s;
    }
    out = Result{made, n, masks};
    return {};
  }

  Status draw(const Heads& heads, const Letterbox& letterbox, const Candidate* all, const std::uint32_t* order, Detection* made,
              std::size_t n) noexcept {
    const std::size_t height = heads.proto.height(), width = heads.proto.width();
    detail::Axis across, down;
    const double step_x = double(letterbox.size[1]) / double(width), step_y = double(letterbox.size[0]) / double(height);
    float* coeff = arena_.take<float>(heads.proto.channels());
    if (!coeff || !across.make(letterbox.source[1], letterbox.scale[0], letterbox.pad[0], step_x, width, arena_) ||
        !down.make(letterbox.source[0], letterbox.scale[1], letterbox.pad[1], step_y, height, arena_)) {
      return detail::kNoRoom;
    }
    detail::Logits logits;
    detail::Tile tile;
    if (!logits.prepare(heads.proto, arena_) || !tile.prepare(across, down, std::size_t(letterbox.source[1]), width, arena_)) {
      return detail::kNoRoom;
    }
    int top = letterbox.source[0] - 1, bottom = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const detail::Window w = detail::pixels_inside(made[i].box, letterbox);
      if (w.y1 > w.y0) top = std::min(top, w.y0), bottom = std::max(bottom, w.y1 - 1);
    }
    const std::size_t upper = down.first[top], lower = std::min<std::size_t>(down.first[bottom] + 2, height);
    if (upper < lower) logits.bounds(upper, lower - upper);
    for (std::size_t i = 0; i < n; ++i) {
      const detail::Window w = detail::pixels_inside(made[i].box, letterbox);
      const int wide = std::max(w.x1 - w.x0, 0), high = std::max(w.y1 - w.y0, 0);
      std::uint8_t* pixels = arena_.take<std::uint8_t>(std::size_t(wide) * std::size_t(high) + detail::kSpare);
      if (!pixels) return detail::kNoRoom;
      made[i].mask = Mask{w.x0, w.y0, wide, high, pixels};
      if (!wide || !high) continue;
      const Candidate& c = all[order[i]];
      heads.coeffs[c.map].row(c.cell, coeff);
      const std::size_t row = down.first[w.y0], col = across.first[w.x0];
      const std::size_t rows = std::min<std::size_t>(down.first[w.y1 - 1] + 2, height) - row;
      const std::size_t cols = std::min<std::size_t>(across.first[w.x1 - 1] + 2, width) - col;
      logits.window(coeff, row, rows, col, cols);
      tile.fill(w, logits, pixels);
    }
    return {};
  }

  Manifest manifest_;
  Arena arena_;
};

}  // namespace edgeseg
