// segment_tflite MODEL.tflite PICTURE.ppm [FOLDER]: detections and masks with LiteRT, as JSON lines.
#include "common.hpp"
#include "litert.h"

namespace {

void done(LiteRtStatus status, const char* what) {
  if (status) example::fail(std::string("LiteRT cannot ") + what + " (status " + std::to_string(status) + ")");
}

unsigned number(const std::string& text, std::size_t at, std::size_t bytes) {
  unsigned out = 0;
  for (std::size_t i = bytes; i-- > 0;) out = out << 8 | static_cast<unsigned char>(text[at + i]);
  return out;
}

// The manifest in metadata.json, the first member of the ZIP behind the model, which is not compressed.
std::string manifest_text(const std::string& path) {
  const std::string file = example::read(path), name = "metadata.json";
  const std::size_t header = 30;
  std::size_t start = std::string::npos;
  for (std::size_t found = file.find("PK\3\4"); found != std::string::npos; found = file.find("PK\3\4", found + 1)) {
    if (found + header < file.size() && file.compare(found + header, name.size(), name) == 0) start = found;
  }
  if (start == std::string::npos || number(file, start + 8, 2)) example::fail(path + " has no manifest: edgeseg export writes one");
  const std::size_t text = start + header + number(file, start + 26, 2) + number(file, start + 28, 2), bytes = number(file, start + 22, 4);
  edgeseg::json::Value metadata;
  if (text + bytes > file.size() || !edgeseg::json::parse(file.data() + text, bytes, metadata)) example::fail(path + ": unreadable metadata");
  const edgeseg::json::Value* manifest = metadata.find("edgeseg");
  if (!manifest) example::fail(path + " has no manifest: edgeseg export writes one");
  return manifest->text;
}

class Network {
 public:
  explicit Network(const char* path) : manifest_(example::manifest_of(manifest_text(path))) {
    LiteRtOptions options = nullptr;
    done(LiteRtCreateEnvironment(0, nullptr, &environment_), "start");
    done(LiteRtCreateModelFromFile(environment_, path, &model_), "read the model");
    done(LiteRtCreateOptions(&options), "make options");
    done(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "use the CPU");
    done(LiteRtCreateCompiledModel(environment_, model_, options, &compiled_), "compile the model");
    LiteRtDestroyOptions(options);
    buffers();
  }
  Network(const Network&) = delete;
  ~Network() {
    for (LiteRtTensorBuffer buffer : outputs_) LiteRtDestroyTensorBuffer(buffer);
    LiteRtDestroyTensorBuffer(input_);
    LiteRtDestroyCompiledModel(compiled_);
    LiteRtDestroyModel(model_);
    LiteRtDestroyEnvironment(environment_);
  }

  const edgeseg::Manifest& manifest() const { return manifest_; }

  std::vector<edgeseg::Tensor> run(const void* input, std::size_t bytes) {
    void* to = nullptr;
    done(LiteRtLockTensorBuffer(input_, &to, kLiteRtTensorBufferLockModeWrite), "take the input");
    std::memcpy(to, input, bytes);
    done(LiteRtUnlockTensorBuffer(input_), "take the input");
    done(LiteRtRunCompiledModel(compiled_, 0, 1, &input_, outputs_.size(), outputs_.data()), "run the model");
    std::vector<edgeseg::Tensor> tensors(order_.size());
    kept_.resize(order_.size());
    for (std::size_t i = 0; i < order_.size(); ++i) {
      void* from = nullptr;
      edgeseg::Tensor& t = tensors[i] = types_[order_[i]];
      done(LiteRtLockTensorBuffer(outputs_[order_[i]], &from, kLiteRtTensorBufferLockModeRead), "give an output");
      kept_[i].resize(t.bytes / 4 + 1);
      std::memcpy(kept_[i].data(), from, t.bytes);
      done(LiteRtUnlockTensorBuffer(outputs_[order_[i]]), "give an output");
      t.data = kept_[i].data();
    }
    return tensors;
  }

 private:
  // Make the buffers, and see which output of the model is which of the manifest.
  void buffers() {
    LiteRtSignature signature = nullptr;
    LiteRtTensor tensor = nullptr;
    LiteRtTensorBufferRequirements needs = nullptr;
    LiteRtRankedTensorType type;
    LiteRtParamIndex count = 0;
    done(LiteRtGetModelSignature(model_, 0, &signature), "find the signature");
    done(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensor), "find the input");
    done(LiteRtGetRankedTensorType(tensor, &type), "find the input");
    done(LiteRtGetCompiledModelInputBufferRequirements(compiled_, 0, 0, &needs), "find the input");
    done(LiteRtCreateManagedTensorBufferFromRequirements(environment_, &type, needs, &input_), "make the input");
    done(LiteRtGetNumSignatureOutputs(signature, &count), "count the outputs");
    std::vector<std::string> names;
    for (LiteRtParamIndex i = 0; i < count; ++i) {
      const char* name = nullptr;
      done(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor), "find an output");
      done(LiteRtGetTensorName(tensor, &name), "name an output");
      done(LiteRtGetRankedTensorType(tensor, &type), "find an output");
      done(LiteRtGetCompiledModelOutputBufferRequirements(compiled_, 0, i, &needs), "find an output");
      outputs_.push_back(nullptr);
      done(LiteRtCreateManagedTensorBufferFromRequirements(environment_, &type, needs, &outputs_.back()), "make an output");
      names.push_back(name);
      types_.push_back(described(type));
    }
    for (const edgeseg::Spec& spec : manifest_.outputs) {
      std::size_t at = 0;
      while (at < names.size() && names[at] != spec.name) ++at;
      if (at == names.size()) example::fail("the model has no output " + spec.name);
      order_.push_back(at);
    }
  }

  static edgeseg::Tensor described(const LiteRtRankedTensorType& type) {
    edgeseg::Tensor out;
    switch (type.element_type) {
      case kLiteRtElementTypeFloat32: out.type = edgeseg::Type::float32; break;
      case kLiteRtElementTypeFloat16: out.type = edgeseg::Type::float16; break;
      case kLiteRtElementTypeInt8: out.type = edgeseg::Type::int8; break;
      case kLiteRtElementTypeUInt8: out.type = edgeseg::Type::uint8; break;
      case kLiteRtElementTypeInt16: out.type = edgeseg::Type::int16; break;
      default: example::fail("an output has a type that no artifact of edgeseg has");
    }
    if (type.layout.rank > 4) example::fail("an output has more than four dimensions");
    out.rank = int(type.layout.rank);
    out.bytes = edgeseg::size_of(out.type);
    for (int i = 0; i < out.rank; ++i) out.shape[i] = type.layout.dimensions[i], out.bytes *= std::size_t(out.shape[i]);
    return out;
  }

  edgeseg::Manifest manifest_;
  LiteRtEnvironment environment_ = nullptr;
  LiteRtModel model_ = nullptr;
  LiteRtCompiledModel compiled_ = nullptr;
  LiteRtTensorBuffer input_ = nullptr;
  std::vector<LiteRtTensorBuffer> outputs_;
  std::vector<edgeseg::Tensor> types_;      // of the model's outputs
  std::vector<std::size_t> order_;          // which of them the manifest's outputs are
  std::vector<std::vector<float>> kept_;
};

}  // namespace

int main(int count, char** words) { return example::run<Network>(count, words); }
