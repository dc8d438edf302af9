// Listed groups of 4-bit weights x few tokens, for 8-bit products of 512 bits. Included after body.h.

// Into the first cache, other than in_passing: one stream has lines enough there (Zen 4, two threads: 36 GB/s from the second
// cache, 40 from the first; from memory 28 and 30).
constexpr int alone_in_passing = 3;

// 16 times the values of four groups, as bytes: a nibble in the high half of a byte has its sign where bytes have theirs.
inline __m512i sixteenfold(const unsigned char* p) {
  const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i shifts = _mm512_maskz_set1_epi64(0x0f, 0x0004000400040004);
  return _mm512_and_si512(_mm512_sllv_epi16(both, shifts), _mm512_set1_epi8(static_cast<char>(0xf0)));
}

// The scales of four groups as floats, each in the four lanes where its group's products are.
inline Vec four_scales(const unsigned char* p) {
  std::int64_t scales;
  __builtin_memcpy(&scales, p, sizeof scales);
  const auto two_bytes = [](int i) { return static_cast<int>(0x80800000u | static_cast<unsigned>((2 * i + 1) << 8 | 2 * i)); };
  const __m512i places = _mm512_setr_epi32(two_bytes(0), two_bytes(0), two_bytes(0), two_bytes(0), two_bytes(1), two_bytes(1),
                                           two_bytes(1), two_bytes(1), two_bytes(2), two_bytes(2), two_bytes(2), two_bytes(2),
                                           two_bytes(3), two_bytes(3), two_bytes(3), two_bytes(3));
  return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_set1_epi64(scales), places));
}

// Two and two, and then the halves: one step over all 512 bits instead of three.
template <int bytes>
inline __m512i listed_inputs(const std::uint8_t* x, const unsigned char* numbers) {
  using Number = std::conditional_t<bytes == 1, std::uint8_t, std::uint16_t>;
  const auto group = [&](int i) {
    Number number;
    __builtin_memcpy(&number, numbers + i * bytes, bytes);
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + std::size_t{number} * matvec4::group_inputs));
  };
  const __m256i first = _mm256_inserti128_si256(_mm256_castsi128_si256(group(0)), group(1), 1);
  const __m256i second = _mm256_inserti128_si256(_mm256_castsi128_si256(group(2)), group(3), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

// One row's sums over its weights as they are stored.
template <int bytes, int tokens>
inline void sum_listed(const unsigned char* row, int fours, const std::uint8_t* const (&x)[tokens], float* sums) {
  constexpr int chains = tokens == 1 ? 2 : 1;  // one token: two sums, for one would wait for itself
  const unsigned char* numbers = row;
  const unsigned char* scales = numbers + static_cast<std::ptrdiff_t>(fours) * matvec4::together * bytes;
  const unsigned char* values = scales + static_cast<std::ptrdiff_t>(fours) * matvec4::together * matvec4::scale_bytes;
  for (const unsigned char* line = row; line < values; line += 64) __builtin_prefetch(line + ahead, 0, alone_in_passing);
  Vec partial[tokens * chains];
  for (int t = 0; t < tokens * chains; ++t) partial[t] = zero();
  const auto step = [&](int chain) {
    __builtin_prefetch(values + ahead, 0, alone_in_passing);
    const __m512i w = sixteenfold(values);
    const Vec by = four_scales(scales);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
      partial[t + chain] = fma(by, dot_inputs(w, listed_inputs<bytes>(x[t], numbers)), partial[t + chain]);
    numbers += matvec4::together * bytes;
    scales += matvec4::together * matvec4::scale_bytes;
    values += matvec4::together * matvec4::group_bytes;
  };
  for (; chains == 2 && fours >= 2; fours -= 2) {
    step(0);
    step(chains - 1);
  }
  for (; fours > 0; --fours) step(0);
  if (chains == 2) partial[0] = add(partial[0], partial[chains - 1]);
  for (int t = 0; t < tokens; ++t) sums[t] = sum(partial[t]) * 0.0625f;
}

template <int bytes, int tokens>
inline void put_listed(const matvec4::Rows& w, int row, const matvec4::Inputs8& in, int token, const RowOutput& output) {
  const std::uint8_t* x[tokens];
  float sums[tokens];
  point_at<tokens>(x, in, in.values, token);
  const int fours = (static_cast<int>(w.entries[row]) + matvec4::together - 1) / matvec4::together;
  sum_listed<bytes, tokens>(w.bytes + w.starts[row], fours, x, sums);
  for (int t = 0; t < tokens && token + t < in.tokens; ++t)
    output.y[(token + t) * output.stride + row] = finished(w, row, in, token + t, sums[t]);
}

template <int bytes>
inline void put_listed_tokens(const matvec4::Rows& w, int row, const matvec4::Inputs8& in, const RowOutput& output) {
  for (int token = 0; token < in.tokens;) {
    const int left = in.tokens - token;
    if (left > 4) put_listed<bytes, 8>(w, row, in, token, output), token += 8;
    else if (left > 1) put_listed<bytes, 4>(w, row, in, token, output), token += 4;
    else put_listed<bytes, 1>(w, row, in, token, output), token += 1;
  }
}

template <>
void multiply_rows<Format::listed>(const matvec4::Rows& w, int first, int last, const matvec4::Inputs8& in, const RowOutput& output) noexcept {
  for (int row = first; row < last; ++row)
    w.number_bytes == 1 ? put_listed_tokens<1>(w, row, in, output) : put_listed_tokens<2>(w, row, in, output);
  finish_rows(output, first, last, in.tokens);
}
