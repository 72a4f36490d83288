/* What segment_tflite needs of LiteRT's C interface (version 2): the library that Python's package brings has no headers
 * with it. Where LiteRT's own headers are at hand, include those in its place. */
#ifndef EDGESEG_EXAMPLES_LITERT_H_
#define EDGESEG_EXAMPLES_LITERT_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtSignatureT* LiteRtSignature;
typedef struct LiteRtTensorT* LiteRtTensor;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT* LiteRtTensorBufferRequirements;
typedef size_t LiteRtParamIndex;
typedef int LiteRtStatus; /* 0: all is well */

enum { kLiteRtHwAcceleratorCpu = 1 };
enum { kLiteRtTensorBufferLockModeRead = 0, kLiteRtTensorBufferLockModeWrite = 1 };
enum {
  kLiteRtElementTypeFloat32 = 1,
  kLiteRtElementTypeUInt8 = 3,
  kLiteRtElementTypeInt16 = 7,
  kLiteRtElementTypeInt8 = 9,
  kLiteRtElementTypeFloat16 = 10
};

typedef struct {
  unsigned int rank : 7;
  bool has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} LiteRtLayout;

typedef struct {
  int element_type;
  LiteRtLayout layout;
} LiteRtRankedTensorType;

LiteRtStatus LiteRtCreateEnvironment(int count, const void* options, LiteRtEnvironment* out);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);
LiteRtStatus LiteRtCreateModelFromFile(LiteRtEnvironment environment, const char* path, LiteRtModel* out);
void LiteRtDestroyModel(LiteRtModel model);
LiteRtStatus LiteRtCreateOptions(LiteRtOptions* out);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
void LiteRtDestroyOptions(LiteRtOptions options);
LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options,
                                       LiteRtCompiledModel* out);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel model);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel model, LiteRtParamIndex signature, size_t input_count,
                                    LiteRtTensorBuffer* inputs, size_t output_count, LiteRtTensorBuffer* outputs);

LiteRtStatus LiteRtGetModelSignature(LiteRtModel model, LiteRtParamIndex index, LiteRtSignature* out);
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature signature, LiteRtParamIndex* out);
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtSignature signature, LiteRtParamIndex index, LiteRtTensor* out);
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature signature, LiteRtParamIndex index, LiteRtTensor* out);
LiteRtStatus LiteRtGetTensorName(LiteRtTensor tensor, const char** out);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor tensor, LiteRtRankedTensorType* out);

LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel model, LiteRtParamIndex signature,
                                                           LiteRtParamIndex index, LiteRtTensorBufferRequirements* out);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel model, LiteRtParamIndex signature,
                                                            LiteRtParamIndex index, LiteRtTensorBufferRequirements* out);
LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment environment, const LiteRtRankedTensorType* type,
                                                             LiteRtTensorBufferRequirements needs, LiteRtTensorBuffer* out);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void** address, int mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
}

#endif
