// segment_onnx MODEL.onnx PICTURE.ppm [FOLDER]: detections and masks with ONNX Runtime, as JSON lines.
#include <onnxruntime_cxx_api.h>

#include "common.hpp"

namespace {

class Network {
 public:
  explicit Network(const char* path) : session_(environment_, path, Ort::SessionOptions()) {
    const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("edgeseg", allocator_);
    if (!text) example::fail(std::string(path) + " has no manifest: edgeseg export writes one");
    manifest_ = example::manifest_of(text.get());
  }

  const edgeseg::Manifest& manifest() const { return manifest_; }

  std::vector<edgeseg::Tensor> run(void* input, std::size_t bytes) {
    const edgeseg::Spec& spec = manifest_.input;
    const std::int64_t height = manifest_.imgsz[0], width = manifest_.imgsz[1], channels = manifest_.channels;
    const std::vector<std::int64_t> shape = spec.nchw ? std::vector<std::int64_t>{1, channels, height, width}
                                                      : std::vector<std::int64_t>{1, height, width, channels};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value value = Ort::Value::CreateTensor(memory, input, bytes, shape.data(), shape.size(), kind(spec.dtype));
    const char* in = spec.name.c_str();
    std::vector<const char*> out;
    for (const edgeseg::Spec& one : manifest_.outputs) out.push_back(one.name.c_str());
    values_ = session_.Run(Ort::RunOptions(), &in, &value, 1, out.data(), out.size());
    std::vector<edgeseg::Tensor> tensors;
    for (const Ort::Value& one : values_) tensors.push_back(tensor(one));
    return tensors;
  }

 private:
  static ONNXTensorElementDataType kind(const std::string& dtype) {
    if (dtype == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (dtype == "int8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    if (dtype == "uint8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    example::fail("the input is " + dtype);
  }

  static edgeseg::Tensor tensor(const Ort::Value& value) {
    const auto info = value.GetTensorTypeAndShapeInfo();
    edgeseg::Tensor out;
    switch (info.GetElementType()) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: out.type = edgeseg::Type::float32; break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: out.type = edgeseg::Type::float16; break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: out.type = edgeseg::Type::int8; break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: out.type = edgeseg::Type::uint8; break;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16: out.type = edgeseg::Type::int16; break;
      default: example::fail("an output has a type that no artifact of edgeseg has");
    }
    const std::vector<std::int64_t> shape = info.GetShape();
    if (shape.size() > 4) example::fail("an output has more than four dimensions");
    for (const std::int64_t n : shape) out.shape[out.rank++] = n;
    out.data = value.GetTensorRawData();
    out.bytes = info.GetElementCount() * edgeseg::size_of(out.type);
    return out;
  }

  Ort::Env environment_{ORT_LOGGING_LEVEL_WARNING, "edgeseg"};
  Ort::AllocatorWithDefaultOptions allocator_;
  Ort::Session session_;
  edgeseg::Manifest manifest_;
  std::vector<Ort::Value> values_;
};

}  // namespace

int main(int count, char** words) {
  try {
    return example::run<Network>(count, words);
  } catch (const Ort::Exception& e) {
    example::fail(e.what());
  }
}
