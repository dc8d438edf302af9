// A convolution's weight laid out for one conv kernel: bands of output channels, blocks of input channels, groups of
// output channels with like counts (or blocks of neighbours that share their inputs).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/conv/contract.h"

namespace rarefy::conv {

// The window of a convolution; the padding belongs to the call.
struct Window {
  int height = 1, width = 1;                // kernel
  int stride_y = 1, stride_x = 1;
  int dilation_y = 1, dilation_x = 1;

  bool operator==(const Window&) const = default;
};

inline constexpr int band_channels = 64;  // at most; small enough to share out among threads

// What a weight's 32-bit words are: floats, of which zeros and denormals are left out; or four signed bytes, of which a
// word of zeros is left out; or such whose pairs must not pass 16 bits when they are multiplied with bytes: then the word
// is stored as two, one with the bytes 0 and 2, one with 1 and 3.
enum class Words { floats, bytes, apart_bytes };

struct Packed {
  int out = 0, in = 0, groups = 1;  // output channels of all groups; input channels of one
  Window window;
  const Tile* kernel = nullptr;
  int block = 1;     // input channels in a panel
  int multiple = 1;  // of which a band's number of output channels is
  std::size_t nnz = 0;
  Array<std::uint32_t> values;
  Array<std::uint16_t> offsets;
  Array<std::uint16_t> heads;
  struct Start {
    std::size_t value, offset, head, count;
  };
  Array<Start> starts;  // (bands of all groups, blocks)

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, groups, window, kernel, block, multiple, nnz, values, offsets, heads, starts] = self;
    archive(out, in, groups, window, block, multiple, nnz, values, offsets, heads, starts);
  }

  int group_out() const { return groups == 0 ? 0 : out / groups; }
  int bands_a_group() const { return (group_out() + band_channels - 1) / band_channels; }
  int bands() const { return groups * bands_a_group(); }
  int band_rows() const;               // output channels of a band, of the last one perhaps fewer
  int padded_rows() const;             // with filling up to whole groups
  int first_row(int band) const;       // output channel
  int rows_of(int band) const;
  int blocks() const { return in == 0 ? 1 : (in + block - 1) / block; }
  int channels_of(int b) const { return b + 1 < blocks() ? block : in - b * block; }
  int panel_rows() const { return (kernel->pixels - 1) * window.stride_y + (window.height - 1) * window.dilation_y + 1; }
  int channel_vectors() const { return window.width * panel_rows(); }
  std::size_t panel_vectors() const;   // of a whole block, and zeros for filling
  Segment segment(int band, int b) const;
  std::size_t bytes() const;
};

// weight: (out, in / groups, height, width) row-major. panel_bytes: what a panel may take.
// Throws std::invalid_argument where one input channel is more than the offsets can name.
Packed pack(const std::uint32_t* weight, Words words, int out, int in, int groups, const Window&, const Tile&,
            std::size_t panel_bytes, int multiple = 1);

// The inverse: writes every entry.
void unpack(const Packed& packed, std::uint32_t* weight);

}  // namespace rarefy::conv
