// Errors, tensors as a runtime gives them, memory for one picture, and sums that every machine rounds alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace edgeseg {

enum class Error : unsigned char { none, json, schema, manifest, setting, tensors, memory };

// What went wrong: ``what`` is a sentence with static storage. True when all is well.
struct Status {
  Error code = Error::none;
  const char* what = "";
  explicit operator bool() const noexcept { return code == Error::none; }
};

enum class Type : unsigned char { float32, int8, uint8, int16, float16 };

inline std::size_t size_of(Type type) noexcept {
  return type == Type::float32 ? 4 : type == Type::int16 || type == Type::float16 ? 2 : 1;
}

// One output of the model, batch axis first, C order. ``data`` stays the caller's and is aligned for its type.
struct Tensor {
  const void* data = nullptr;
  std::size_t bytes = 0;
  Type type = Type::float32;
  int rank = 0;
  std::int64_t shape[4] = {0, 0, 0, 0};
};

// A product that is rounded before anything is added to it: on CPUs with fused multiply-add compilers would skip that.
template <class T>
inline T rounded(T x) noexcept {
#if defined(__GNUC__) && defined(__aarch64__)
  asm("" : "+w"(x));
  return x;
#elif defined(__GNUC__) && defined(__x86_64__)
  asm("" : "+x"(x));
  return x;
#else
  volatile T stored = x;
  return stored;
#endif
}

// Memory of one picture: taken piece by piece, given back at once. Blocks are kept, and several become one.
class Arena {
 public:
  explicit Arena(std::size_t limit) noexcept : limit_(limit) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  // Room for n objects, aligned to 64 bytes and not initialised; nullptr when the limit or the memory is exhausted.
  template <class T>
  T* take(std::size_t n) noexcept {
    if (n > limit_ / sizeof(T)) return nullptr;
    const std::size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
    if (!head_ || head_->size - used_ < bytes) {
      if (!grow(bytes)) return nullptr;
    }
    unsigned char* start = base(head_) + used_;
    used_ += bytes;
    return reinterpret_cast<T*>(start);
  }

  void reset() noexcept {
    if (head_ && head_->next) {
      const std::size_t all = total_;
      release();
      grow(all);
    }
    used_ = 0;
  }

 private:
  struct Block {
    Block* next;
    std::size_t size;
  };

  static unsigned char* base(Block* block) noexcept {
    const auto after = reinterpret_cast<std::uintptr_t>(block + 1);
    return reinterpret_cast<unsigned char*>(block + 1) + (64 - after % 64) % 64;
  }

  bool grow(std::size_t bytes) noexcept {
    if (bytes > limit_ || total_ > limit_ - bytes) return false;
    std::size_t size = bytes < kLeast ? kLeast : bytes;
    if (size < total_ && total_ <= limit_ - total_) size = total_;
    void* memory = ::operator new(sizeof(Block) + 64 + size, std::nothrow);
    if (!memory) return false;
    head_ = new (memory) Block{head_, size};
    total_ += size;
    used_ = 0;
    return true;
  }

  void release() noexcept {
    while (head_) {
      Block* next = head_->next;
      ::operator delete(head_);
      head_ = next;
    }
    total_ = used_ = 0;
  }

  static constexpr std::size_t kLeast = std::size_t(1) << 16;
  std::size_t limit_, total_ = 0, used_ = 0;
  Block* head_ = nullptr;
};

}  // namespace edgeseg
