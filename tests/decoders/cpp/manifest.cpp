// What the C++ reader makes of a manifest on the standard input: its error, or the values that decoding needs.
#include <iostream>
#include <iterator>

#include "edgeseg.hpp"

int main() {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  edgeseg::Manifest m;
  const edgeseg::Status status = edgeseg::Manifest::parse(text.data(), text.size(), m);
  if (!status) return std::cout << status.what << "\n", 1;
  std::cout << m.format << " " << m.imgsz[0] << "x" << m.imgsz[1] << " " << m.reg_max << " " << m.names.size() << " " << m.outputs.size();
  for (const std::string& name : m.names) std::cout << "\n" << name;
  std::cout << "\n";
  return 0;
}
