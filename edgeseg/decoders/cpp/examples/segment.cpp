// The two halves around a runtime: from a picture to the input tensor, and from output tensors to masks on the picture.
//
//   segment prepare MANIFEST.json PICTURE.ppm INPUT.bin
//   segment draw MANIFEST.json PICTURE.ppm RESULT.ppm OUTPUT.bin:int8:1x20x20x64 ...
//
// MANIFEST.json is the text under the key "edgeseg" of the artifact's metadata. Between the two, LiteRT, ONNX Runtime or ncnn
// runs the file (segment_onnx, segment_tflite and segment_ncnn do all in one): INPUT.bin is what its input holds, OUTPUT.bin what its outputs hold, in the manifest's order, with the
// outputs' dtypes (float32, int8, uint8, int16, float16) and shapes. In a program of one piece the bytes never leave the memory.
#include "common.hpp"

namespace {

using example::check;
using example::fail;
using example::Image;
using example::read;
using example::write;

// "FILE:dtype:1x2x3": the shape, the bytes, and where they are from.
edgeseg::Tensor tensor(const std::string& word, std::vector<std::string>& kept) {
  static const char* const kTypes[] = {"float32", "int8", "uint8", "int16", "float16"};
  const std::size_t shape = word.rfind(':'), type = shape == std::string::npos ? shape : word.rfind(':', shape - 1);
  if (type == std::string::npos) fail(word + " is not FILE:dtype:1x2x3");
  edgeseg::Tensor out;
  int at = -1;
  for (int i = 0; i < 5; ++i) {
    if (word.substr(type + 1, shape - type - 1) == kTypes[i]) at = i;
  }
  if (at < 0) fail(word + " has an unknown dtype");
  out.type = static_cast<edgeseg::Type>(at);
  std::istringstream sizes(word.substr(shape + 1));
  for (std::string size; std::getline(sizes, size, 'x');) {
    if (out.rank == 4) fail(word + " has more than four dimensions");
    out.shape[out.rank++] = std::atoll(size.c_str());
  }
  kept.push_back(read(word.substr(0, type)));
  out.data = kept.back().data();
  out.bytes = kept.back().size();
  return out;
}

void draw(const edgeseg::Manifest& manifest, Image& image, const std::vector<edgeseg::Tensor>& tensors) {
  edgeseg::Letterbox box;
  check(edgeseg::Letterbox::fit(image.height, image.width, manifest.imgsz[0], manifest.imgsz[1], box));
  edgeseg::Decoder decoder(manifest);
  edgeseg::Result found;
  check(decoder.run(tensors.data(), tensors.size(), box, edgeseg::Settings(), found));
  for (std::size_t i = 0; i < found.count; ++i) {
    const edgeseg::Detection& d = found.detections[i];
    long pixels = 0;
    for (int y = 0; y < d.mask.height; ++y) {
      for (int x = 0; x < d.mask.width; ++x) {
        if (!d.mask.pixels[std::size_t(y) * std::size_t(d.mask.width) + std::size_t(x)]) continue;
        std::uint8_t* pixel = &image.rgb[(std::size_t(d.mask.y + y) * std::size_t(image.width) + std::size_t(d.mask.x + x)) * 3];
        pixel[i % 3] = static_cast<std::uint8_t>((pixel[i % 3] + 255) / 2);
        ++pixels;
      }
    }
    std::printf("%s %.5f %.3f %.3f %.3f %.3f %ld\n", manifest.names[std::size_t(d.cls)].c_str(), double(d.score), double(d.box[0]),
                double(d.box[1]), double(d.box[2]), double(d.box[3]), pixels);
  }
}

}  // namespace

int main(int count, char** words) {
  const std::string what = count > 1 ? words[1] : "";
  if (count < 5 || (what != "prepare" && what != "draw")) fail("segment prepare|draw MANIFEST.json PICTURE.ppm RESULT [OUTPUT ...]");
  const edgeseg::Manifest manifest = example::manifest_of(read(words[2]));
  Image image = example::read_ppm(words[3]);
  if (what == "prepare") {
    const example::Input input = example::prepared(manifest, image);
    return write(words[4], input.data.data(), input.bytes), 0;
  }
  std::vector<std::string> kept;
  kept.reserve(std::size_t(count));
  std::vector<edgeseg::Tensor> tensors;
  for (int i = 5; i < count; ++i) tensors.push_back(tensor(words[i], kept));
  draw(manifest, image, tensors);
  const std::string header = "P6\n" + std::to_string(image.width) + " " + std::to_string(image.height) + "\n255\n";
  image.rgb.insert(image.rgb.begin(), header.begin(), header.end());
  write(words[4], image.rgb.data(), image.rgb.size());
  return 0;
}
