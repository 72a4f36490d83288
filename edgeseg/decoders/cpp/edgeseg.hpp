// Detections and masks from the tensors of an edgeseg artifact, in C++17 without any dependency.
//
//   edgeseg::Manifest manifest;
//   edgeseg::Status status = edgeseg::Manifest::parse(text, size, manifest);   // the metadata key "edgeseg"
//   edgeseg::Decoder decoder(manifest);
//   edgeseg::Result found;
//   status = decoder.run(tensors, count, letterbox, settings, found);          // found lives until the next run
//
// Masks equal those of edgeseg.vision to the pixel. No function throws, except for memory while a manifest is read.
// After two pictures of a kind the decoder allocates nothing.
#pragma once

#include "edgeseg/decoder.hpp"
#include "edgeseg/manifest.hpp"
#include "edgeseg/preprocess.hpp"
