// How a picture lies in the network's input, and the way back for boxes. As edgeseg.vision.preprocess has it.
#pragma once

#include <algorithm>
#include <cmath>

#include "base.hpp"

namespace edgeseg {

// Scaled by one ratio, centred, padded. Coordinates are continuous pixels: the first one's centre is (0.5, 0.5).
struct Letterbox {
  int source[2] = {1, 1};   // height, width of the picture
  int size[2] = {1, 1};     // height, width of the input
  int resized[2] = {1, 1};  // height, width of the picture inside the input
  int pad[2] = {0, 0};      // left, top
  double ratio = 1;
  double scale[2] = {1, 1};  // x, y: input pixels for one of the picture

  static constexpr int kMostSide = 1 << 20;

  static Status fit(int height, int width, int input_height, int input_width, Letterbox& out) noexcept {
    const int sides[4] = {height, width, input_height, input_width};
    for (int side : sides) {
      if (side < 1 || side > kMostSide) return {Error::setting, "a picture or an input has a side that none can have"};
    }
    Letterbox made;
    made.source[0] = height, made.source[1] = width;
    made.size[0] = input_height, made.size[1] = input_width;
    made.ratio = std::min(double(input_height) / height, double(input_width) / width);
    for (int i = 0; i < 2; ++i) {
      made.resized[i] = static_cast<int>(std::max(1.0, std::nearbyint(made.source[i] * made.ratio)));
    }
    for (int i = 0; i < 2; ++i) {  // x, then y
      // The small shift sends an odd pixel of padding to the right and the bottom, as trained networks saw it.
      made.pad[i] = static_cast<int>(std::nearbyint((made.size[1 - i] - made.resized[1 - i]) / 2.0 - 0.1));
      made.scale[i] = double(made.resized[1 - i]) / made.source[1 - i];
    }
    out = made;
    return {};
  }

  // Input pixels -> pixels of the picture, clipped to it.
  void to_source(const float (&box)[4], float (&out)[4]) const noexcept {
    for (int i = 0; i < 4; ++i) {
      const double at = (double(box[i]) - pad[i % 2]) / scale[i % 2];
      out[i] = static_cast<float>(std::min(std::max(at, 0.0), 2.0 * kMostSide));
      out[i] = std::min(out[i], static_cast<float>(source[1 - i % 2]));
    }
  }
};

}  // namespace edgeseg
