// What a reader must know of an artifact: the JSON block that edgeseg writes into its metadata.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "base.hpp"
#include "json.hpp"

namespace edgeseg {

enum class Role : unsigned char { box, score, coeff, proto, prediction };
enum class Head : unsigned char { raw, decoded, nms };

// An input or output as the file has it; integers mean scale * (q - zero_point).
struct Spec {
  std::string name;
  std::string dtype = "float32";
  bool nchw = true;
  bool quantized = false;
  double scale = 1;
  std::int32_t zero_point = 0;
  Role role = Role::prediction;
  int stride = 0;
};

// The keys that decoding needs, by the names and with the defaults of edgeseg.manifest.Manifest. Unknown keys are left out;
// a schema newer than ``kSchema`` is refused.
struct Manifest {
  static constexpr int kSchema = 1;
  static constexpr int kMostSide = 1 << 16;

  std::string format;
  std::vector<std::string> names;
  int imgsz[2] = {0, 0};  // height, width
  Spec input;
  std::vector<Spec> outputs;
  Head head = Head::raw;
  bool segment = true;
  int reg_max = 16;
  int channels = 3;
  bool dynamic = false, normalized_boxes = false, boxes_xyxy = false, score_logits = false, end2end = false;
  bool rgb = true;
  int pad_value = 114;
  double input_max = 1;

  // Read a manifest's JSON text. ``out`` is whole or untouched.
  static Status parse(const char* text, std::size_t size, Manifest& out) {
    if (size > json::kMostText) return {Error::json, "the manifest is too large"};
    json::Value root;
    if (!json::parse(text, size, root) || !root.is(json::Kind::object)) return {Error::json, "the manifest is no JSON object"};
    const json::Value* schema = root.find("schema");
    if (!schema || !schema->is(json::Kind::number)) return {Error::schema, "the manifest says no schema"};
    if (schema->number > kSchema) return {Error::schema, "a newer edgeseg wrote the manifest: update edgeseg.hpp"};
    if (schema->number != kSchema) return {Error::schema, "the manifest has an unknown schema"};
    Manifest made;
    if (!made.read(root)) return {Error::manifest, "the manifest holds a value that none can have"};
    out = std::move(made);
    return {};
  }

 private:
  using Kind = json::Kind;
  using Value = json::Value;

  static bool integer(const Value& v, double low, double high, int& out) {
    if (!v.is(Kind::number) || !(v.number >= low && v.number <= high) || v.number != std::floor(v.number)) return false;
    out = static_cast<int>(v.number);
    return true;
  }

  static bool whole(const Value& root, const char* key, int low, int high, int& out) {
    const Value* v = root.find(key);
    return !v || integer(*v, low, high, out);
  }

  static bool flag(const Value& root, const char* key, bool& out) {
    const Value* v = root.find(key);
    if (v && v->is(Kind::boolean)) out = v->truth;
    return !v || v->is(Kind::boolean);
  }

  // The index of a text among ``words``, which end with nullptr; an absent key leaves ``out`` alone.
  static bool choice(const Value& root, const char* key, const char* const* words, int& out) {
    const Value* v = root.find(key);
    if (!v) return true;
    for (int i = 0; words[i]; ++i) {
      if (v->is(Kind::string) && v->text == words[i]) return out = i, true;
    }
    return false;
  }

  static bool sides(const Value& root, int (&out)[2]) {
    const Value* v = root.find("imgsz");
    if (!v || !v->is(Kind::array) || v->items.size() != 2) return false;
    return integer(v->items[0], 1, kMostSide, out[0]) && integer(v->items[1], 1, kMostSide, out[1]);
  }

  static bool tensor(const Value& from, Spec& out) {
    static constexpr const char* kLayouts[] = {"nchw", "nhwc", nullptr};
    const Value *name = from.find("name"), *scale = from.find("scale"), *zero = from.find("zero_point");
    if (!from.is(Kind::object) || !name || !name->is(Kind::string)) return false;
    out.name = name->text;
    if (const Value* dtype = from.find("dtype")) {
      if (!dtype->is(Kind::string)) return false;
      out.dtype = dtype->text;
    }
    int layout = 0;
    if (!choice(from, "layout", kLayouts, layout)) return false;
    out.nchw = layout == 0;
    const bool scaled = scale && !scale->is(Kind::null), shifted = zero && !zero->is(Kind::null);
    if (scaled != shifted) return false;
    if (!scaled) return true;
    if (!scale->is(Kind::number) || !(scale->number > 0) || !std::isfinite(scale->number)) return false;
    out.quantized = true;
    out.scale = scale->number;
    return integer(*zero, -2147483648.0, 2147483647.0, out.zero_point);
  }

  static bool output(const Value& from, Spec& out) {
    static constexpr const char* kRoles[] = {"box", "score", "coeff", "proto", "prediction", nullptr};
    int role = static_cast<int>(Role::prediction);
    if (!tensor(from, out) || !choice(from, "role", kRoles, role)) return false;
    out.role = static_cast<Role>(role);
    const Value* stride = from.find("stride");
    return !stride || stride->is(Kind::null) || integer(*stride, 0, kMostSide, out.stride);
  }

  bool read(const Value& root) {
    static constexpr const char* kHeads[] = {"raw", "decoded", "nms", nullptr};
    static constexpr const char* kTasks[] = {"segment", "detect", nullptr};
    static constexpr const char* kBoxes[] = {"xywh", "xyxy", nullptr};
    const Value *said = root.find("format"), *labels = root.find("names"), *in = root.find("input"), *outs = root.find("outputs");
    if (!said || !said->is(Kind::string) || !labels || !labels->is(Kind::array) || !in || !outs) return false;
    format = said->text;
    for (const Value& label : labels->items) {
      if (!label.is(Kind::string)) return false;
      names.push_back(label.text);
    }
    if (!sides(root, imgsz) || !tensor(*in, input) || !outs->is(Kind::array)) return false;
    for (const Value& one : outs->items) {
      outputs.emplace_back();
      if (!output(one, outputs.back())) return false;
    }
    int kind = 0, task = 0, corners = 0;
    if (!choice(root, "head", kHeads, kind) || !choice(root, "task", kTasks, task)) return false;
    if (!choice(root, "boxes", kBoxes, corners)) return false;
    head = static_cast<Head>(kind);
    segment = task == 0;
    boxes_xyxy = corners == 1;
    if (const Value* colour = root.find("colour")) {
      if (!colour->is(Kind::string)) return false;
      rgb = colour->text == "rgb";
    }
    if (const Value* top = root.find("input_max")) {
      if (!top->is(Kind::number) || !std::isfinite(top->number)) return false;
      input_max = top->number;
    }
    return whole(root, "reg_max", 1, kMostSide, reg_max) && whole(root, "channels", 1, kMostSide, channels) &&
           whole(root, "pad_value", 0, 255, pad_value) && flag(root, "dynamic", dynamic) &&
           flag(root, "normalized_boxes", normalized_boxes) && flag(root, "score_logits", score_logits) &&
           flag(root, "end2end", end2end);
  }
};

}  // namespace edgeseg
