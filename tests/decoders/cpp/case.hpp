// Golden vectors as a program reads them (edgeseg/decoders/README.md).
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "edgeseg.hpp"

namespace vectors {

using edgeseg::json::Value;

inline std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

inline Value json(const std::string& path) {
  const std::string text = read(path);
  Value value;
  if (!edgeseg::json::parse(text.data(), text.size(), value, std::size_t(1) << 28)) {
    std::fprintf(stderr, "%s is no JSON\n", path.c_str());
    std::exit(2);
  }
  return value;
}

inline const Value& at(const Value& v, const char* key) {
  if (const Value* found = v.find(key)) return *found;
  std::fprintf(stderr, "no key %s\n", key);
  std::exit(2);
}

inline int whole(const Value& v) { return static_cast<int>(v.number); }

inline edgeseg::Type type_of(const std::string& name) {
  return name == "float32" ? edgeseg::Type::float32
         : name == "int8"  ? edgeseg::Type::int8
         : name == "uint8" ? edgeseg::Type::uint8
         : name == "int16" ? edgeseg::Type::int16
                           : edgeseg::Type::float16;
}

// Bytes at an address that fits every type, with nothing behind them that a sanitizer would not see.
struct Bytes {
  explicit Bytes(const std::string& text) : size(text.size()), data(std::malloc(size ? size : 1)) { std::memcpy(data, text.data(), size); }
  Bytes(Bytes&& other) noexcept : size(other.size), data(other.data) { other.data = nullptr; }
  ~Bytes() { std::free(data); }
  std::size_t size;
  void* data;
};

// What a case gives to the decoder.
struct Case {
  Value of;
  edgeseg::Manifest manifest;
  edgeseg::Status read_it;
  std::vector<Bytes> bytes;
  std::vector<edgeseg::Tensor> tensors;
  std::vector<int> classes;
  edgeseg::Settings settings;
  edgeseg::Letterbox box;

  explicit Case(const std::string& folder) : of(json(folder + "/case.json")) {
    const std::string& text = at(of, "manifest").text;
    read_it = edgeseg::Manifest::parse(text.data(), text.size(), manifest);
    for (const Value& said : at(of, "outputs").items) {
      bytes.emplace_back(read(folder + "/" + at(said, "file").text));
      edgeseg::Tensor t;
      t.data = bytes.back().data;
      t.bytes = bytes.back().size;
      t.type = type_of(at(said, "dtype").text);
      for (const Value& n : at(said, "shape").items) t.shape[t.rank++] = whole(n);
      tensors.push_back(t);
    }
    const Value &set = at(of, "settings"), &only = at(set, "classes");
    for (const Value& c : only.items) classes.push_back(whole(c));
    settings.conf = at(set, "conf").number, settings.iou = at(set, "iou").number, settings.max_det = whole(at(set, "max_det"));
    settings.multi_label = at(set, "multi_label").truth, settings.masks = at(set, "masks").truth;
    settings.index = whole(at(set, "index"));
    settings.class_count = classes.size();
    classes.push_back(-1);  // so that an empty list is a list
    if (!only.is(edgeseg::json::Kind::null)) settings.classes = classes.data();
    const Value &source = at(of, "source"), &size = at(of, "size");
    edgeseg::Letterbox::fit(whole(source.items[0]), whole(source.items[1]), whole(size.items[0]), whole(size.items[1]), box);
  }
  Case(const Case&) = delete;
};

}  // namespace vectors
