#include "ops/conv_tiles.h"

#include <unistd.h>

#include <algorithm>

#include "core/aligned.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::conv {
namespace {

bool is_pointwise(const Packed& w, const Place& p) {
  return w.window.height == 1 && w.window.width == 1 && w.window.stride_y == 1 && w.window.stride_x == 1 && p.top == 0 &&
         p.left == 0 && p.out_height == p.height && p.out_width == p.width;
}

Plane plane_of(const Packed& w, const Place& p) {
  const std::ptrdiff_t channel = static_cast<std::ptrdiff_t>(p.height) * p.width;
  const std::ptrdiff_t close = static_cast<std::ptrdiff_t>(p.out_height) * p.out_width;
  const std::ptrdiff_t out_channel = p.out_channel == 0 ? close : p.out_channel;
  if (!is_pointwise(w, p))
    return {p.height, p.width, p.width, p.out_height, p.out_width, p.out_width, channel, out_channel};
  const int line = w.kernel->width, rows = static_cast<int>((channel + line - 1) / line);
  const int tail = static_cast<int>(channel - static_cast<std::ptrdiff_t>(rows - 1) * line);
  return {rows, line, tail, rows, line, tail, channel, out_channel};
}

// How the output is cut: strips of `columns` x `pixels` rows, `parts` of them in a vector.
struct Cut {
  int parts, columns, across, down;
  std::size_t strips, tiles;
};

Cut cut_into(const Tile& kernel, const Plane& plane, int batch, int parts) {
  const int columns = kernel.width / parts;
  const int across = (plane.out_width + columns - 1) / columns, down = (plane.out_height + kernel.pixels - 1) / kernel.pixels;
  const std::size_t strips = static_cast<std::size_t>(batch) * across * down;
  return {parts, columns, across, down, strips, (strips + parts - 1) / parts};
}

// Fewest tiles; narrower strips cost more to load, so they have to save a fifth.
Cut best_cut(const Tile& kernel, const Plane& plane, int batch) {
  Cut best = cut_into(kernel, plane, batch, 1);
  for (int parts = 2; parts <= most_parts && kernel.width / parts >= 4; parts *= 2) {
    const Cut cut = cut_into(kernel, plane, batch, parts);
    if (static_cast<double>(cut.tiles) * 1.25 <= static_cast<double>(best.tiles)) best = cut;
  }
  return best;
}

unsigned lanes_inside(int left, int stride, int columns, int width) {
  unsigned keep = 0;
  for (int lane = 0; lane < columns; ++lane) {
    const std::ptrdiff_t at = left + static_cast<std::ptrdiff_t>(lane) * stride;
    if (at >= 0 && at < width) keep |= 1u << lane;
  }
  return keep;
}

// (positions across + 1, kernel columns): the last row is for a strip that is not there.
std::vector<Lanes16> insides(const Packed& w, const Place& p, const Plane& plane, const Cut& cut) {
  std::vector<Lanes16> out;
  for (int x = 0; x < cut.across; ++x)
    for (int tap = 0; tap < w.window.width; ++tap) {
      const int left = x * cut.columns * w.window.stride_x - p.left + tap * w.window.dilation_x;
      const auto keep = [&](int width) {
        return static_cast<std::uint16_t>(lanes_inside(left, w.window.stride_x, cut.columns, width));
      };
      out.push_back({keep(plane.width), keep(plane.tail)});
    }
  out.resize(out.size() + w.window.width);
  return out;
}

struct Call {
  const Packed& weight;
  const Place& place;
  const Outside outside;
  const End end;
  const void* const context;
  const Plane plane;
  const Cut cut;
  const std::vector<Lanes16> inside;
};

Strip strip_at(const Call& call, std::size_t number) {
  const Packed& w = call.weight;
  const Place& p = call.place;
  const Cut& cut = call.cut;
  if (number >= cut.strips) {
    Strip nothing{};
    nothing.x = p.x;
    nothing.at = -1;
    nothing.inside = call.inside.data() + static_cast<std::size_t>(cut.across) * w.window.width;
    return nothing;
  }
  const int across = static_cast<int>(number % cut.across), down = static_cast<int>(number / cut.across % cut.down);
  const std::size_t image = number / cut.across / cut.down;
  const int y = down * w.kernel->pixels, x = across * cut.columns;
  const std::size_t at = image * p.out_channels * call.plane.out_channel + static_cast<std::size_t>(y) * call.plane.out_width + x;
  const int rows = std::min(w.kernel->pixels, call.plane.out_height - y);
  const int columns = std::min(cut.columns, call.plane.out_width - x);
  const bool ends = y + rows == call.plane.out_height;
  return {p.x + image * w.in * w.groups * call.plane.channel,
          call.inside.data() + static_cast<std::size_t>(across) * w.window.width,
          y * w.window.stride_y - p.top,
          x * w.window.stride_x - p.left,
          static_cast<std::ptrdiff_t>(at),
          image,
          call.outside(call.context, image),
          rows,
          columns,
          ends ? std::min(columns, call.plane.out_tail - x) : columns};
}

// All blocks of input channels for the bands [first, last) of one group, then their outputs.
void run_group(const Call& call, const Strip* strips, int first, int last, float* panel, float* sums) {
  const Packed& w = call.weight;
  const Tile& kernel = *w.kernel;
  const Input input{call.plane.channel,
                    call.plane.width,
                    call.plane.height,
                    w.window.width,
                    w.window.dilation_x,
                    w.window.stride_x,
                    w.panel_rows()};
  const std::size_t band_sums = static_cast<std::size_t>(w.padded_rows()) * kernel.pixels * kernel.width;
  const Accumulate accumulate = kernel.accumulate[w.window.stride_y == 1 ? 0 : w.window.stride_y == 2 ? 1 : 2];
  const int channel = first / w.bands_a_group() * w.in;
  Ahead nothing{};
  for (int b = 0; b < w.blocks(); ++b) {
    kernel.load_panel(input, strips, call.cut.parts, channel + b * w.block, w.in == 0 ? 0 : w.channels_of(b), panel);
    for (int band = first; band < last; ++band) {
      float* const at = sums + band_sums * (band - first);
      accumulate(w.segment(band, b), panel, at, w.window.stride_y, b == 0, nothing);
      if (b + 1 == w.blocks()) call.end(call.context, {call.plane, strips, call.cut.parts, band, at});
    }
  }
}

void run_tile(const Call& call, std::size_t tile, int first, int last) {
  static thread_local Scratch scratch;
  const Packed& w = call.weight;
  const std::size_t panel_floats = w.panel_vectors() * w.kernel->width;
  const int together = std::min(last - first, w.bands_a_group());
  float* const panel =
      scratch.at_least(panel_floats + static_cast<std::size_t>(together) * w.padded_rows() * w.kernel->pixels * w.kernel->width);
  const std::size_t filling = static_cast<std::size_t>(w.panel_rows()) * w.kernel->width;
  std::fill(panel + panel_floats - filling, panel + panel_floats, 0.0f);
  Strip strips[most_parts];
  for (int part = 0; part < call.cut.parts; ++part) strips[part] = strip_at(call, tile * call.cut.parts + part);
  for (int band = first; band < last;) {
    const int end = std::min(last, (band / w.bands_a_group() + 1) * w.bands_a_group());
    run_group(call, strips, band, end, panel, panel + panel_floats);
    band = end;
  }
}

// Neighbouring tiles share cache lines of the output: a thread takes runs of them, several where each is still a whole row.
std::size_t runs_of(const Cut& cut, int threads, int parts) {
  const std::size_t workers = static_cast<std::size_t>(threads + parts - 1) / parts;
  for (std::size_t each = 4; each > 1; each /= 2)
    if (cut.tiles >= each * each * workers * cut.across) return each * workers;
  return std::min(cut.tiles, workers);
}

}  // namespace

void each_tile(const Packed& weight, const Place& place, int threads, Outside outside, End end, const void* context) {
  if (place.batch <= 0 || weight.out == 0 || place.out_height <= 0 || place.out_width <= 0) return;
  const Plane plane = plane_of(weight, place);
  const Cut cut = best_cut(*weight.kernel, plane, place.batch);
  const double pixels = static_cast<double>(place.batch) * place.out_height * place.out_width;
  threads = threads_for(static_cast<double>(weight.values.size() + weight.out) * pixels, threads);
  // Channels are split only when there are too few tiles to keep every thread busy to the end.
  const bool enough = threads == 1 || cut.tiles >= 4 * static_cast<std::size_t>(threads) || cut.tiles % threads == 0;
  const int parts = enough ? 1 : std::min(threads, weight.bands());
  const Call call{weight, place, outside, end, context, plane, cut, insides(weight, place, plane, cut)};
  const std::size_t runs = runs_of(cut, threads, parts), bands = weight.bands();
  parallel_for(runs * parts, threads, [&](std::size_t task) {
    const std::size_t part = task / runs, run = task % runs;
    const int first = static_cast<int>(bands * part / parts), last = static_cast<int>(bands * (part + 1) / parts);
    for (std::size_t tile = cut.tiles * run / runs; tile < cut.tiles * (run + 1) / runs; ++tile)
      run_tile(call, tile, first, last);
  });
}

std::size_t panel_bytes() {
  static const std::size_t bytes = [] {
#if defined(_SC_LEVEL1_DCACHE_SIZE)  // glibc's own
    const long level1 = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#else
    const long level1 = 0;
#endif
    return static_cast<std::size_t>(level1 > 0 ? level1 : 32768) * 3 / 4;
  }();
  return bytes;
}

}  // namespace rarefy::conv
