// A packed 8-bit convolution weight, as Python holds it, its kernels, and images of words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "bind/conv.h"
#include "core/mapping.h"
#include "ops/conv8.h"

namespace rarefy {

// x: words of scales and zeros `step` from image to image; image: batch, height, width; place: padding at the top and left,
// output height and width; y: floats, or with `in_words` words of a scale and zero; residual: like y.
struct Conv8Call {
  std::uintptr_t x, scale, zero;
  int step;
  std::tuple<int, int, int> image;
  std::tuple<int, int, int, int> place;
  std::uintptr_t bias, residual;
  float residual_scale;
  int residual_zero, activation;
  std::uintptr_t y;
  bool in_words;
  float to_scale;
  int to_zero;
};
conv8::Problem problem8(const Conv8Call& call);

class PackedConv8 {
 public:
  using Sizes = PackedConv::Sizes;
  using Steps = PackedConv::Steps;
  // codes: the address of (out, in / groups, height, width) signed bytes; scale: of (out) floats. Throws as PackedConv's.
  PackedConv8(std::uintptr_t codes, std::uintptr_t scale, const Sizes& sizes, const Steps& steps, const std::string& kernel);
  // As PackedConv's: the packed form in bytes of a mapped file.
  PackedConv8(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const Sizes& sizes, const Steps& steps,
              const std::string& kernel);
  ~PackedConv8();
  PackedConv8(const PackedConv8&) = delete;
  PackedConv8& operator=(const PackedConv8&) = delete;

  void convolve(const Conv8Call& call, int threads) const { conv8::convolve(packed_, problem8(call), threads); }
  void unpack(std::uintptr_t weight) const;
  std::size_t save(std::uintptr_t to) const;
  std::size_t nnz() const { return packed_.nnz; }
  std::size_t bytes() const { return packed_.bytes(); }

 private:
  std::shared_ptr<Mapping> file_;  // what the weight sees
  conv8::Packed packed_;
};

std::vector<ListedConv> conv8_listing();

// As conv8::from_floats and to_floats.
void to_words(std::uintptr_t x, std::int64_t batch, int channels, std::int64_t pixels, bool find, std::uintptr_t scale,
              std::uintptr_t zero, std::uintptr_t words, int threads);
void from_words(std::uintptr_t words, std::int64_t batch, int channels, std::int64_t pixels, float scale, int zero,
                std::uintptr_t y, int threads);
// sizes: height, width, out_height, out_width.
void max_pool_words(std::uintptr_t x, std::int64_t planes, const std::tuple<int, int, int, int>& sizes,
                    const PoolWindow& window, std::uintptr_t y, int threads);

}  // namespace rarefy
