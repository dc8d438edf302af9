// A packed weight of any kernel, and the list of kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "pack/rows.h"
#include "pack/tiled.h"

namespace rarefy {

// The array at an address that Python passed; 0 is "none".
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

class Packed {
 public:
  // weight: the address of (out, in) floats, row-major. Throws std::invalid_argument for a kernel that is not compiled
  // in, or that needs an instruction set this process may not use.
  Packed(std::uintptr_t weight, std::int64_t out, std::int64_t in, const std::string& kernel);
  ~Packed();
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;

  void multiply(std::uintptr_t x, std::int64_t tokens, std::uintptr_t bias, int activation, std::uintptr_t y,
                int threads) const;
  void unpack(std::uintptr_t weight) const;
  std::size_t nnz() const;
  std::size_t bytes() const;

  static long live();  // how many exist: the leak check asks

 private:
  std::variant<spmm::Tiled, spmv::Packed> layout_;
};

using Listed = std::tuple<std::string, std::string, std::string, int, int, int>;
std::vector<Listed> listing();

}  // namespace rarefy
