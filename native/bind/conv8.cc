#include "bind/conv8.h"

#include <stdexcept>

#include "bind/packed.h"
#include "ops/conv8.h"
#include "ops/conv_tiles.h"

namespace rarefy {

conv8::Problem problem8(const Conv8Call& c) {
  const auto [batch, height, width] = c.image;
  const auto [top, left, out_height, out_width] = c.place;
  const std::uintptr_t floats = c.in_words ? 0 : c.y, words = c.in_words ? c.y : 0;
  const conv8::Result to{at<float>(floats), at<float>(c.in_words ? 0 : c.residual), at<std::uint8_t>(words),
                         at<std::uint8_t>(c.in_words ? c.residual : 0), c.to_scale, c.residual_scale, c.to_zero,
                         c.residual_zero};
  const conv8::Input input{at<std::uint8_t>(c.x), at<float>(c.scale), at<std::int32_t>(c.zero), c.step};
  return {input, batch, height, width, top, left, out_height, out_width, at<float>(c.bias),
          static_cast<conv::Activation>(c.activation), to};
}

namespace {

const conv8::Kernel& kernel_named(const std::string& name) {
  for (const conv8::Kernel* kernel : conv8::kernels())
    if (name == kernel->tile.name) {
      require_isa("pack_conv8", name, kernel->tile.isa);
      return *kernel;
    }
  throw std::invalid_argument("pack_conv8: no kernel is called '" + name + "'; rarefy.ops.conv8.kernels() lists them");
}

conv8::Packed lay_out(const std::int8_t* codes, const float* scale, const PackedConv8::Sizes& sizes,
                      const PackedConv8::Steps& steps, const std::string& name) {
  const conv::Window window = window_of(sizes, steps);
  const auto [out, in, groups, height, width] = sizes;
  return conv8::pack(codes, scale, out, in, groups, window, kernel_named(name), conv::panel_bytes());
}

conv8::Packed see(const Mapping& file, std::size_t at, std::size_t bytes, const PackedConv8::Sizes& sizes,
                  const PackedConv8::Steps& steps, const std::string& name) {
  conv8::Packed packed;
  packed.kernel = &kernel_named(name);
  packed.words.kernel = &packed.kernel->tile;
  BlobReader blob(file.part(at, bytes), bytes, name);
  blob(packed);
  blob.finish();
  const auto [out, in, groups, height, width] = sizes;
  if (std::tie(packed.out, packed.in, packed.groups) != std::tie(out, in, groups) || packed.words.window != window_of(sizes, steps))
    throw std::invalid_argument("packed bytes: a convolution of another size or window than what was asked for");
  return packed;
}

}  // namespace

PackedConv8::PackedConv8(std::uintptr_t codes, std::uintptr_t scale, const Sizes& sizes, const Steps& steps,
                         const std::string& kernel)
    : packed_(lay_out(at<std::int8_t>(codes), at<float>(scale), sizes, steps, kernel)) {
  Packed::count_live(1);
}

PackedConv8::PackedConv8(std::shared_ptr<Mapping> file, std::size_t at, std::size_t bytes, const Sizes& sizes,
                         const Steps& steps, const std::string& kernel)
    : file_(std::move(file)), packed_(see(*file_, at, bytes, sizes, steps, kernel)) {
  Packed::count_live(1);
}

PackedConv8::~PackedConv8() { Packed::count_live(-1); }

void PackedConv8::unpack(std::uintptr_t weight) const { conv8::unpack(packed_, at<float>(weight)); }

std::size_t PackedConv8::save(std::uintptr_t to) const {
  BlobWriter writer(at<std::uint8_t>(to));
  writer(packed_);
  return writer.finish(packed_.kernel->tile.name);
}

std::vector<ListedConv> conv8_listing() {
  std::vector<ListedConv> out;
  for (const conv8::Kernel* k : conv8::kernels())
    out.emplace_back(k->tile.name, isa_name(k->tile.isa), k->tile.rows, k->tile.pixels, k->tile.together);
  return out;
}

void to_words(std::uintptr_t x, std::int64_t batch, int channels, std::int64_t pixels, bool find, std::uintptr_t scale,
              std::uintptr_t zero, std::uintptr_t words, int threads) {
  conv8::from_floats(at<float>(x), batch, channels, pixels, find, at<float>(scale), at<std::int32_t>(zero),
                     at<std::uint8_t>(words), threads);
}

void from_words(std::uintptr_t words, std::int64_t batch, int channels, std::int64_t pixels, float scale, int zero,
                std::uintptr_t y, int threads) {
  conv8::to_floats(at<std::uint8_t>(words), batch, channels, pixels, scale, zero, at<float>(y), threads);
}

void max_pool_words(std::uintptr_t x, std::int64_t planes, const std::tuple<int, int, int, int>& sizes,
                    const PoolWindow& window, std::uintptr_t y, int threads) {
  const auto [height, width, out_height, out_width] = sizes;
  const auto [kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x] = window;
  conv8::max_pool({at<std::uint8_t>(x), at<std::uint8_t>(y), height, width, out_height, out_width, {kernel_y, kernel_x},
                   {stride_y, stride_x}, {padding_y, padding_x}, {dilation_y, dilation_x}}, planes, threads);
}

}  // namespace rarefy
