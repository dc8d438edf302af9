// A packed convolution weight, as Python holds it, and the list of its kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/mapping.h"
#include "ops/conv.h"
#include "ops/conv_across.h"

namespace rarefy {

// Kernel, stride, padding, dilation of a pooling, each (down, across).
using PoolWindow = std::tuple<int, int, int, int, int, int, int, int>;

class PackedConv {
 public:
  using Sizes = std::tuple<int, int, int, int, int>;  // output channels, input channels of a group, groups, kernel
  using Steps = std::tuple<int, int, int, int>;       // stride, dilation (down, across)

  // weight: the address of (out, in / groups, height, width) floats. Throws std::invalid_argument for a kernel that is not
  // compiled in, that needs an instruction set this process may not use, or whose offsets are too short for the window.
  PackedConv(std::uintptr_t weight, const Sizes& sizes, const Steps& steps, const std::string& kernel);
  // As Packed's: the packed form in bytes of a mapped file.
  PackedConv(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const Sizes& sizes, const Steps& steps,
             const std::string& kernel);
  ~PackedConv();
  PackedConv(const PackedConv&) = delete;
  PackedConv& operator=(const PackedConv&) = delete;

  // image: batch, height, width; place: padding at the top and left, output height and width.
  void convolve(std::uintptr_t x, const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place,
                std::uintptr_t bias, std::uintptr_t residual, int activation, std::uintptr_t y, int threads) const;
  // Followed by max pooling, of which only the result is written; pooled: its height and width.
  void convolve_pooled(std::uintptr_t x, const std::tuple<int, int, int>& image, const std::tuple<int, int, int, int>& place,
                       std::uintptr_t bias, int activation, const PoolWindow& window, const std::tuple<int, int>& pooled,
                       std::uintptr_t y, int threads) const;
  // The same as `convolve` for blocks of images across the lanes; image: blocks, height, width. The weight was packed turned.
  void convolve_across(std::uintptr_t x, const std::tuple<int, int, int>& image,
                       const std::tuple<int, int, int, int>& place, std::uintptr_t bias, std::uintptr_t residual,
                       int activation, std::uintptr_t y, int threads) const;
  void unpack(std::uintptr_t weight) const { conv::unpack(packed_, reinterpret_cast<std::uint32_t*>(weight)); }
  std::size_t save(std::uintptr_t to) const;
  std::size_t nnz() const { return packed_.nnz; }
  std::size_t bytes() const { return packed_.bytes(); }

 private:
  std::shared_ptr<Mapping> file_;  // what the weight sees
  conv::Packed packed_;
};

// What both kinds of convolution check. Throw std::invalid_argument.
conv::Window window_of(const PackedConv::Sizes& sizes, const PackedConv::Steps& steps);
void require_isa(const char* where, const std::string& kernel, Isa needed);

conv::Problem conv_problem(std::uintptr_t x, const std::tuple<int, int, int>& image,
                           const std::tuple<int, int, int, int>& place, std::uintptr_t bias, std::uintptr_t residual,
                           int activation, std::uintptr_t y);

conv::Across across_problem(std::uintptr_t x, const std::tuple<int, int, int>& image,
                            const std::tuple<int, int, int, int>& place, std::uintptr_t bias, std::uintptr_t residual,
                            int activation, std::uintptr_t y);

// name, isa, output channels in a group, vectors of pixels, whether the group shares its inputs
using ListedConv = std::tuple<std::string, std::string, int, int, bool>;
std::vector<ListedConv> conv_listing();

// images (count, size) to blocks of images across the lanes of the widest kernels, and back (`back` true).
void turn_across(std::uintptr_t from, std::int64_t count, std::int64_t size, std::uintptr_t to, bool back, int threads);
int lanes_across();  // how many images are in a block

// sizes: height, width, out_height, out_width.
void max_pool(std::uintptr_t x, std::int64_t planes, const std::tuple<int, int, int, int>& sizes, const PoolWindow& window,
              std::uintptr_t y, int threads);

}  // namespace rarefy
