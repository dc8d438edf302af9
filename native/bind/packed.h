// A packed weight of any kernel, as Python holds it, and the list of kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/mapping.h"
#include "ops/layout.h"

namespace rarefy {

// The array at an address that Python passed; 0 is "none".
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

class Packed {
 public:
  // weight: the address of (out, in) floats, row-major; 0: codes (out, in) of `bits` and scales (out, groups) instead.
  // input_scale 0: 8-bit inputs get their scales at each call. Throws std::invalid_argument for a kernel that is not
  // compiled in, that stores other types, or that needs an instruction set this process may not use.
  // input_factors: the address of (in) floats by which inputs are divided, or 0; only with input_scale.
  Packed(std::uintptr_t weight, std::uintptr_t codes, std::uintptr_t scales, int groups, int bits, float input_scale,
         int input_zero, std::uintptr_t input_factors, std::int64_t out, std::int64_t in, const std::string& kernel);
  // The packed form that `save` wrote, in bytes [at, at + bytes) of a mapped file, for the same kernel and inputs.
  // Throws std::invalid_argument for a kernel as above and for bytes that are not whole, unchanged, and of this size.
  Packed(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, float input_scale, int input_zero,
         std::uintptr_t input_factors, std::int64_t out, std::int64_t in, const std::string& kernel);
  ~Packed();
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  void multiply(std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, int activation, std::uintptr_t y,
                int threads) const;
  // y (tokens, next.out) = act(act(x W^T + bias) V^T + bias) with V the next weight; false, and y as it was, where one task
  // cannot hold what is between them.
  bool multiply_through(const Packed& next, std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, int activation,
                        std::uintptr_t next_bias, int next_activation, std::uintptr_t y, int threads) const;
  // scale, zero: one a token (step 1) or one for all (step 0); y: floats, or with `to_scale` not 0 bytes of that scale,
  // or bytes of y times `to_inverse` (out) where that is an address.
  void multiply8(std::uintptr_t x, std::int64_t tokens, std::uintptr_t scale, std::uintptr_t zero, int step,
                 std::uintptr_t bias, int activation, std::uintptr_t y, float to_scale, int to_zero,
                 std::uintptr_t to_inverse, int threads) const;
  // list: `count` numbers of rows. Throws std::logic_error for a kernel that computes only all of them.
  void multiply_rows(std::uintptr_t x, std::int64_t tokens, std::uintptr_t list, int count, std::uintptr_t y, int threads) const;
  void unpack(std::uintptr_t weight) const;
  std::size_t nnz() const { return layout_->nnz(); }
  std::size_t bytes() const { return layout_->bytes(); }
  // Writes the packed form to an address on a cache line, 0: nowhere. Gives its bytes.
  std::size_t save(std::uintptr_t to) const;
  const Layout& layout() const { return *layout_; }

  static long live();  // how many packed weights of any kind exist: the leak check asks
  static void count_live(int change);

 private:
  std::shared_ptr<Mapping> file_;  // what the layout sees
  std::string kernel_;
  std::unique_ptr<Layout> layout_;
};

// name, op, isa, weights type, activations type, rows, tokens, depth
using Listed = std::tuple<std::string, std::string, std::string, std::string, std::string, int, int, int>;
std::vector<Listed> listing();

}  // namespace rarefy
