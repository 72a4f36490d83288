// Suppression with grids against all pairs, on hostile boxes: the same ones stay, and few pairs are looked at.
#include <random>

#include "case.hpp"

namespace {

using edgeseg::Candidate;
using Boxes = std::vector<Candidate>;

std::mt19937 random_numbers(7);

float uniform(double low, double high) { return static_cast<float>(low + (high - low) * (random_numbers() / 4294967296.0)); }

template <class Make>
Boxes boxes(std::size_t n, const Make& make) {
  Boxes out(n);
  for (std::size_t i = 0; i < n; ++i) {
    Candidate& c = out[i] = Candidate{};
    make(i, c);
    c.score = 1.0f - float(i) / float(2 * n);
  }
  return out;
}

void set(Candidate& c, float x, float y, float w, float h) { c.box[0] = x, c.box[1] = y, c.box[2] = x + w, c.box[3] = y + h; }

std::vector<std::uint32_t> plain(const Boxes& all, float iou) {
  std::vector<std::uint32_t> kept;
  for (std::uint32_t i = 0; i < all.size(); ++i) {
    bool stays = true;
    for (std::size_t k = 0; k < kept.size() && stays; ++k) {
      const Candidate& b = all[kept[k]];
      stays = b.cls != all[i].cls || !edgeseg::detail::overlap(b, edgeseg::detail::area(b.box), all[i], edgeseg::detail::area(all[i].box), iou);
    }
    if (stays) kept.push_back(i);
  }
  return kept;
}

// ``looks``: the most pairs for each box.
int check(const char* name, const Boxes& all, float iou, double looks) {
  edgeseg::Arena arena(std::size_t(1) << 26);
  std::vector<std::uint32_t> order(all.size());
  std::vector<float> areas(all.size());
  edgeseg::detail::by_score(all.data(), all.size(), order.data());
  std::size_t kept = 0, looked = 0;
  const bool room = edgeseg::detail::suppress(all.data(), order.data(), all.size(), iou, all.size(), areas.data(), arena, kept, looked);
  order.resize(kept);
  const bool same = order == plain(all, iou), few = double(looked) <= looks * double(all.size());
  std::printf("%s, iou %g: %zu of %zu stay, %.1f looks each%s%s\n", name, double(iou), kept, all.size(), double(looked) / double(all.size()),
              same ? "" : ", WRONG", few ? "" : ", TOO MANY");
  return !(room && same && few);
}

}  // namespace

int main(int count, char** words) {
  const std::size_t n = count > 1 ? std::size_t(std::atol(words[1])) : 4000;
  int wrong = 0;
  const auto all = [&](const char* name, const Boxes& of, double looks) {
    for (float iou : {0.0f, 0.01f, 0.3f, 0.45f, 0.7f, 0.95f, 1.0f}) wrong += check(name, of, iou, looks);
  };
  all("apart", boxes(n, [](std::size_t i, Candidate& c) { set(c, float(i % 200) * 8, float(i / 200) * 8, 7, 7); }), 8);
  all("two alike", boxes(n, [](std::size_t i, Candidate& c) { set(c, float(i / 2 % 200) * 8, float(i / 400) * 8, 7, 7); }), 8);
  all("thin", boxes(n, [](std::size_t i, Candidate& c) { set(c, 0, float(i), 640, 0.5f); }), 8);
  all("spread", boxes(n, [](std::size_t, Candidate& c) {
    set(c, uniform(0, 640), uniform(0, 640), uniform(4, 40), uniform(4, 40));
  }), double(n) / 50);
  all("every size", boxes(n, [](std::size_t, Candidate& c) {
    const float w = std::ldexp(1.0f, int(random_numbers() % 12) - 2), h = std::ldexp(1.0f, int(random_numbers() % 12) - 2);
    set(c, uniform(0, 2000), uniform(0, 2000), w * uniform(1, 2), h * uniform(1, 2));
    c.cls = std::int32_t(random_numbers() % 3);
  }), double(n) / 20);
  // Boxes that all share the middle of the picture: most of them stay where the threshold is high.
  const Boxes middle = boxes(n, [](std::size_t, Candidate& c) {
    c.box[0] = uniform(0, 300), c.box[1] = uniform(0, 300), c.box[2] = uniform(340, 640), c.box[3] = uniform(340, 640);
  });
  for (float iou : {0.3f, 0.7f, 0.95f}) wrong += check("one middle", middle, iou, double(n) / 40);
  // No bound, but the same result: areas that underflow or overflow, no area, all in one place.
  const auto any = double(n);
  all("tiny", boxes(n, [](std::size_t, Candidate& c) {
    set(c, uniform(0, 1e-20), uniform(0, 1e-20), uniform(0, 1) * 1e-21f, uniform(0, 1) * 1e-21f);
  }), any);
  all("far out", boxes(n, [](std::size_t i, Candidate& c) { set(c, 1e20f * float(i), -1e20f * float(i), 1e19f, 1e19f); }), any);
  all("huge", boxes(n, [](std::size_t, Candidate& c) {
    c.box[0] = uniform(-3e38, 1e38), c.box[1] = uniform(-3e38, 1e38), c.box[2] = uniform(-1e38, 3e38), c.box[3] = uniform(-1e38, 3e38);
  }), any);
  all("inside out", boxes(n, [](std::size_t, Candidate& c) { set(c, uniform(0, 9), uniform(0, 9), uniform(-4, 4), uniform(-4, 4)); }), any);
  all("ulps", boxes(n, [](std::size_t, Candidate& c) { set(c, uniform(100, 100.0001), 7, uniform(50, 50.0001), 9); }), any);
  std::printf("%d wrong\n", wrong);
  return wrong != 0;
}
