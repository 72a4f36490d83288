// Decode one golden vector some times, for counters of instructions:  count FOLDER TIMES
// Under tests/board's counting plugin of QEMU the mark 1 stands before the last time, the mark 2 after it.
#include <unistd.h>

#include "case.hpp"

int main(int count, char** words) {
  if (count < 3) return std::fprintf(stderr, "count FOLDER TIMES\n"), 2;
  const vectors::Case c(words[1]);
  edgeseg::Decoder decoder(c.manifest);
  edgeseg::Result found;
  const int times = std::atoi(words[2]);
  for (int i = 0; i < times; ++i) {
    if (i == times - 1) close(1000000001);
    if (!decoder.run(c.tensors.data(), c.tensors.size(), c.box, c.settings, found)) return 1;
  }
  close(1000000002);
  std::printf("%zu detections\n", found.count);
  return 0;
}
