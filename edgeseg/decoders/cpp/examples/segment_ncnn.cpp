// segment_ncnn MODEL_ncnn_model PICTURE.ppm [FOLDER]: detections and masks with ncnn, as JSON lines.
#include <net.h>

#include "common.hpp"

namespace {

// The manifest in metadata.yaml: one line, in single quotes, which are doubled inside.
std::string manifest_text(const std::string& folder) {
  const std::string text = "\n" + example::read(folder + "/metadata.yaml"), key = "\nedgeseg: '";
  const std::size_t start = text.find(key);
  if (start == std::string::npos) example::fail(folder + " has no manifest: edgeseg export writes one");
  std::string out;
  for (std::size_t i = start + key.size(); i < text.size(); ++i) {
    if (text[i] == '\'' && text[++i] != '\'') break;
    out += text[i];
  }
  return out;
}

class Network {
 public:
  explicit Network(const std::string& folder) : manifest_(example::manifest_of(manifest_text(folder))) {
    net_.opt.use_fp16_packed = net_.opt.use_fp16_storage = net_.opt.use_fp16_arithmetic = false;
    net_.opt.use_bf16_storage = false;
    const std::string stem = folder + "/model.ncnn";
    if (net_.load_param((stem + ".param").c_str()) || net_.load_model((stem + ".bin").c_str())) {
      example::fail("ncnn cannot read " + stem + ".param");
    }
  }

  const edgeseg::Manifest& manifest() const { return manifest_; }

  std::vector<edgeseg::Tensor> run(const void* input, std::size_t bytes) {
    const int height = manifest_.imgsz[0], width = manifest_.imgsz[1];
    const std::size_t plane = std::size_t(height) * std::size_t(width);
    if (manifest_.input.dtype != "float32" || bytes != plane * 3 * sizeof(float)) example::fail("the input is no float32 picture");
    ncnn::Mat in(width, height, 3);
    for (int c = 0; c < 3; ++c) std::memcpy(in.channel(c).data, static_cast<const float*>(input) + std::size_t(c) * plane, plane * 4);
    ncnn::Extractor extractor = net_.create_extractor();
    if (extractor.input(manifest_.input.name.c_str(), in)) example::fail("the graph has no " + manifest_.input.name);
    kept_.assign(manifest_.outputs.size(), {});
    std::vector<edgeseg::Tensor> tensors;
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      ncnn::Mat out;
      if (extractor.extract(manifest_.outputs[i].name.c_str(), out)) example::fail("no output " + manifest_.outputs[i].name);
      tensors.push_back(tensor(out, kept_[i]));
    }
    return tensors;
  }

 private:
  // Between the channels of ncnn's matrices there may be gaps, which are left out.
  static edgeseg::Tensor tensor(const ncnn::Mat& mat, std::vector<float>& kept) {
    if ((mat.dims != 2 && mat.dims != 3) || mat.elemsize != 4) example::fail("an output is no matrix of float32");
    const std::size_t plane = std::size_t(mat.w) * std::size_t(mat.h);
    kept.resize(plane * std::size_t(mat.c));
    for (int c = 0; c < mat.c; ++c) std::memcpy(&kept[std::size_t(c) * plane], mat.channel(c).data, plane * sizeof(float));
    edgeseg::Tensor out;
    out.data = kept.data(), out.bytes = kept.size() * sizeof(float);
    out.shape[out.rank++] = 1;
    if (mat.dims == 3) out.shape[out.rank++] = mat.c;
    out.shape[out.rank++] = mat.h, out.shape[out.rank++] = mat.w;
    return out;
  }

  edgeseg::Manifest manifest_;
  ncnn::Net net_;
  std::vector<std::vector<float>> kept_;
};

}  // namespace

int main(int count, char** words) { return example::run<Network>(count, words); }
