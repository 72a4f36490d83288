// What the example programs share: files, pictures, and the way from a picture to detections around a runtime.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "edgeseg.hpp"

namespace example {

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "error: %s\n", what.c_str());
  std::exit(2);
}

inline void check(const edgeseg::Status& status) {
  if (!status) fail(status.what);
}

inline std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write(const std::string& path, const void* data, std::size_t bytes) {
  std::ofstream file(path, std::ios::binary);
  if (!file.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes))) fail("cannot write " + path);
}

struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;
};

// A binary PPM of 8 bits without comments.
inline Image read_ppm(const std::string& path) {
  const std::string text = read(path);
  std::istringstream header(text);
  std::string magic;
  int most = 0;
  Image image;
  header >> magic >> image.width >> image.height >> most;
  if (!header || magic != "P6" || most != 255 || image.width < 1 || image.height < 1) fail(path + " is no binary PPM of 8 bits");
  const std::size_t start = static_cast<std::size_t>(header.tellg()) + 1;
  const std::size_t bytes = std::size_t(image.width) * std::size_t(image.height) * 3;
  if (text.size() < start || text.size() - start < bytes) fail(path + " is cut off");
  image.rgb.assign(text.begin() + std::ptrdiff_t(start), text.begin() + std::ptrdiff_t(start + bytes));
  return image;
}

inline edgeseg::Manifest manifest_of(const std::string& text) {
  edgeseg::Manifest manifest;
  check(edgeseg::Manifest::parse(text.data(), text.size(), manifest));
  return manifest;
}

// The input tensor of a picture, aligned for every type, and where the picture lies in it.
struct Input {
  std::vector<float> data;
  std::size_t bytes = 0;
  edgeseg::Letterbox box;
};

inline Input prepared(const edgeseg::Manifest& manifest, const Image& image) {
  edgeseg::Preprocessor preprocess(manifest);
  Input input;
  input.bytes = preprocess.bytes();
  input.data.resize(input.bytes / 4 + 1);
  edgeseg::Picture picture;
  picture.pixels = image.rgb.data(), picture.height = image.height, picture.width = image.width;
  check(preprocess.run(picture, input.data.data(), input.bytes, input.box));
  return input;
}

// A JSON line for a detection: "mask" has runs of pixels read row by row, of those outside of the object first.
inline void print(const edgeseg::Manifest& manifest, const edgeseg::Detection& d) {
  std::printf("{\"name\": \"");
  for (const char c : manifest.names[std::size_t(d.cls)]) {
    if (c == '"' || c == '\\') std::putchar('\\');
    if (static_cast<unsigned char>(c) < ' ') std::printf("\\u%04x", unsigned(c));
    else std::putchar(c);
  }
  std::printf("\", \"score\": %.9g, \"box\": [%.9g, %.9g, %.9g, %.9g], \"mask\": {\"corner\": [%d, %d], \"size\": [%d, %d], \"runs\": [",
              double(d.score), double(d.box[0]), double(d.box[1]), double(d.box[2]), double(d.box[3]), d.mask.x, d.mask.y,
              d.mask.height, d.mask.width);
  const std::size_t count = std::size_t(d.mask.width) * std::size_t(d.mask.height);
  std::uint8_t value = 0;
  std::size_t start = 0;
  for (std::size_t i = 0; i <= count; ++i) {
    if (i < count && d.mask.pixels[i] == value) continue;
    std::printf(start || value ? ", %zu" : "%zu", i - start);
    start = i, value = !value;
  }
  std::printf("]}}\n");
}

// A program: MODEL PICTURE.ppm [FOLDER], a JSON line for each detection; FOLDER gets the output tensors, 0.bin and so on.
// ``Network`` is made from the path and has ``manifest()`` and ``run(input, bytes)``, tensors in the manifest's order that live
// until the next run.
template <class Network>
int run(int count, char** words) {
  if (count < 3 || count > 4) fail("MODEL PICTURE.ppm [FOLDER]");
  Network network(words[1]);
  const Image image = read_ppm(words[2]);
  Input input = prepared(network.manifest(), image);
  const std::vector<edgeseg::Tensor> tensors = network.run(input.data.data(), input.bytes);
  for (std::size_t i = 0; count == 4 && i < tensors.size(); ++i) {
    write(words[3] + ("/" + std::to_string(i)) + ".bin", tensors[i].data, tensors[i].bytes);
  }
  edgeseg::Decoder decoder(network.manifest());
  edgeseg::Result found;
  check(decoder.run(tensors.data(), tensors.size(), input.box, edgeseg::Settings(), found));
  for (std::size_t i = 0; i < found.count; ++i) print(network.manifest(), found.detections[i]);
  return 0;
}

}  // namespace example
