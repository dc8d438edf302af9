#include "pack/conv8.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace rarefy::conv8 {
namespace {

int fours(int n) { return (n + 3) / 4; }

// Whether the words of a group are whole; else the weight is packed as one of all channels, with zeros between groups.
bool whole_words(int out, int in, int groups) { return groups == 1 || (in % 4 == 0 && out / groups % 4 == 0); }

// Where the words hold a weight: (fours of all groups that are packed as one).
struct Place {
  std::size_t word;
  int byte;
};

Place place_of(const Packed& p, int o, int c, int tap) {
  const int taps = p.words.window.height * p.words.window.width;
  const int channel = p.words.groups == p.groups || p.out == 0 ? c : o / (p.out / p.groups) * p.in + c;
  return {(static_cast<std::size_t>(o) * p.words.in + channel / 4) * taps + tap, channel % 4};
}

template <class Each>
void each_weight(const Packed& p, Each each) {
  const int taps = p.words.window.height * p.words.window.width;
  std::size_t at = 0;
  for (int o = 0; o < p.out; ++o)
    for (int c = 0; c < p.in; ++c)
      for (int tap = 0; tap < taps; ++tap, ++at) each(o, at, place_of(p, o, c, tap));
}

std::size_t words_of(const Packed& p) {
  return static_cast<std::size_t>(p.out) * p.words.in * p.words.window.height * p.words.window.width;
}

void sum_up(Packed& p, const std::int8_t* codes) {
  constexpr std::int64_t most = 2147483647 / 255;
  const std::size_t row = static_cast<std::size_t>(p.in) * p.words.window.height * p.words.window.width;
  for (int o = 0; o < p.out; ++o) {
    std::int64_t sum = 0, size = 0;
    for (std::size_t i = o * row; i < (o + 1) * row; ++i) {
      sum += codes[i];
      size += std::abs(codes[i]);
      p.nnz += codes[i] != 0;
    }
    if (size > most)
      throw std::invalid_argument("pack_conv8: the weights of output channel " + std::to_string(o) +
                                  " sum up to what can pass 32 bits; leave the layer in float32");
    p.sums[o] = static_cast<std::int32_t>(sum);
  }
}

}  // namespace

Packed pack(const std::int8_t* codes, const float* scale, int out, int in, int groups, const conv::Window& window,
            const Kernel& kernel, std::size_t panel_bytes) {
  Packed p;
  p.out = out;
  p.in = in;
  p.groups = groups;
  p.kernel = &kernel;
  p.scale.assign(4 * fours(out), 0.0f);
  p.sums.assign(4 * fours(out), 0);
  std::copy(scale, scale + out, p.scale.begin());
  p.words.window = window;
  p.words.groups = whole_words(out, in, groups) ? groups : 1;
  p.words.in = fours(whole_words(out, in, groups) ? in : in * groups);
  sum_up(p, codes);
  std::vector<std::uint32_t> words(words_of(p), 0);
  each_weight(p, [&](int, std::size_t at, Place to) {
    words[to.word] |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(codes[at])) << (8 * to.byte);
  });
  const conv::Words kind = kernel.exact_pairs ? conv::Words::bytes : conv::Words::apart_bytes;
  p.words = conv::pack(words.data(), kind, out, p.words.in, p.words.groups, window, kernel.tile, panel_bytes, 4);
  return p;
}

void unpack(const Packed& p, float* weight) {
  std::vector<std::uint32_t> words(words_of(p));
  conv::unpack(p.words, words.data());
  each_weight(p, [&](int o, std::size_t at, Place from) {
    weight[at] = p.scale[o] * static_cast<float>(static_cast<std::int8_t>(words[from.word] >> (8 * from.byte)));
  });
}

}  // namespace rarefy::conv8
