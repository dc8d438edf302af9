// Attention of one head through 8-bit products, for 512-bit vectors with 8-bit dot products.

inline constexpr float log2_of_e = 1.4426950409f;
inline constexpr int rows_of_scores = 6;  // queries that share loaded keys

template <class T>
inline T* part(std::uint8_t* scratch, std::size_t at) {
  return reinterpret_cast<T*>(scratch + at);
}

// The largest magnitude of a row of `depth` floats, a multiple of 16.
inline float magnitude(const float* row, int depth) noexcept {
  __m512 most = _mm512_setzero_ps();
  for (int i = 0; i < depth; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(row + i)));
  return _mm512_reduce_max_ps(most);
}

inline __m512i codes_of(const float* x, __m512 inverse) noexcept {
  return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inverse));
}

// 127 over a magnitude; 0 for rows of zeros and for magnitudes whose inverse would overflow.
inline float inverse_of(float magnitude) noexcept { return magnitude > 1e-30f ? 127.0f / magnitude : 0.0f; }

// One key into its place of every fourth feature.
inline void put_key(const attention8::Head& head, const attention8::Layout& at, int key, std::uint8_t* scratch) noexcept {
  alignas(64) std::int8_t codes[attention8::most_depth];
  const float* row = head.k + key * head.k_row;
  const float most = magnitude(row, head.depth);
  const __m512 inverse = _mm512_set1_ps(inverse_of(most));
  __m512i total = _mm512_setzero_si512();
  for (int i = 0; i < head.depth; i += 16) {
    const __m512i q = codes_of(row + i, inverse);
    total = _mm512_add_epi32(total, q);
    _mm_store_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(q));
  }
  const bool hidden = head.allowed != nullptr && head.allowed[key] == 0;
  part<float>(scratch, at.key_scale)[key] = most / 127.0f;
  part<float>(scratch, at.key_added)[key] = hidden ? -__builtin_inff() : 0.0f;
  part<std::int32_t>(scratch, at.key_start)[key] = -128 * _mm512_reduce_add_epi32(total);
  const int tile = key / attention8::tile_keys * attention8::tile_keys;
  std::uint8_t* to = scratch + at.keys + static_cast<std::size_t>(tile) * head.depth + (key - tile) * 4;
  for (int i = 0; i < head.depth; i += 4, to += 4 * attention8::tile_keys) __builtin_memcpy(to, codes + i, 4);
}

inline void put_keys(const attention8::Head& head, const attention8::Layout& at, std::uint8_t* scratch) noexcept {
  for (int key = 0; key < head.keys; ++key) put_key(head, at, key, scratch);
  for (int key = head.keys; key < at.padded_keys; ++key) {
    part<float>(scratch, at.key_scale)[key] = 0.0f;
    part<float>(scratch, at.key_added)[key] = -__builtin_inff();
    part<std::int32_t>(scratch, at.key_start)[key] = 0;
    const int tile = key / attention8::tile_keys * attention8::tile_keys;
    std::uint8_t* to = scratch + at.keys + static_cast<std::size_t>(tile) * head.depth + (key - tile) * 4;
    for (int i = 0; i < head.depth; i += 4, to += 4 * attention8::tile_keys) __builtin_memset(to, 0, 4);
  }
}

// Sixteen features of all values, four keys beside each other.
inline void put_values(const attention8::Head& head, const attention8::Layout& at, int feature,
                       std::uint8_t* scratch) noexcept {
  __m512 most = _mm512_setzero_ps();
  for (int key = 0; key < head.keys; ++key)
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(head.v + key * head.v_row + feature)));
  _mm512_store_ps(part<float>(scratch, at.value_scale) + feature, _mm512_mul_ps(most, _mm512_set1_ps(1.0f / 127.0f)));
  const __mmask16 some = _mm512_cmp_ps_mask(most, _mm512_set1_ps(1e-30f), _CMP_GT_OQ);
  const __m512 inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(127.0f), most);
  const __m512i byte = _mm512_set1_epi32(255);
  for (int key = 0; key < at.padded_keys; key += 4) {
    __m512i q[4];
    for (int i = 0; i < 4; ++i)
      q[i] = key + i < head.keys ? codes_of(head.v + (key + i) * head.v_row + feature, inverse) : _mm512_setzero_si512();
    __m512i packed = _mm512_slli_epi32(q[3], 24);
    packed = _mm512_or_si512(packed, _mm512_slli_epi32(_mm512_and_si512(q[2], byte), 16));
    packed = _mm512_or_si512(packed, _mm512_slli_epi32(_mm512_and_si512(q[1], byte), 8));
    packed = _mm512_or_si512(packed, _mm512_and_si512(q[0], byte));
    _mm512_store_si512(scratch + at.values + static_cast<std::size_t>(key) * head.depth + feature * 4, packed);
  }
}

inline void attention8_prepare(const attention8::Head& head, std::uint8_t* scratch) noexcept {
  const attention8::Layout at(head.keys, head.depth);
  put_keys(head, at, scratch);
  for (int feature = 0; feature < head.depth; feature += 16) put_values(head, at, feature, scratch);
}

// Queries [first, last) as codes + 128, their scales times head.scale * log2(e); rows up to block_queries are zero.
inline void put_queries(const attention8::Head& head, const attention8::Layout& at, int first, int last,
                        std::uint8_t* scratch) noexcept {
  for (int r = 0; r < attention8::block_queries; ++r) {
    std::uint8_t* to = scratch + at.queries + static_cast<std::size_t>(r) * head.depth;
    if (first + r >= last) {
      __builtin_memset(to, 128, head.depth);
      part<float>(scratch, at.query_scale)[r] = 1e-30f;
      continue;
    }
    const float* row = head.q + (first + r) * head.q_row;
    const float most = magnitude(row, head.depth);
    const __m512 inverse = _mm512_set1_ps(inverse_of(most));
    for (int i = 0; i < head.depth; i += 16) {
      const __m512i q = _mm512_add_epi32(codes_of(row + i, inverse), _mm512_set1_epi32(128));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtepi32_epi8(q));
    }
    const float scale = most / 127.0f * head.scale * log2_of_e;  // never 0: it multiplies -infinity
    part<float>(scratch, at.query_scale)[r] = scale > 1e-30f ? scale : 1e-30f;
  }
}

// sum += four unsigned bytes of x times four signed bytes of w, in each lane. Written out because GCC 12 copies every sum
// of the intrinsic through memory in a loop, which costs as much as float arithmetic.
inline void add_dot4(__m512i& sum, __m512i x, __m512i w) noexcept {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
}

inline __m512i four_bytes(const std::uint8_t* p) noexcept {
  std::int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

// scores[r][key] = key_scale * (codes of q) (codes of k) + key_added for six queries and a panel of keys.
inline void score_tile(const attention8::Head& head, const attention8::Layout& at, int row, int key,
                       std::uint8_t* scratch, __m512* top) noexcept {
  __m512i sums[rows_of_scores][4];
  const std::uint8_t* panel = scratch + at.keys + static_cast<std::size_t>(key) * head.depth;
  const std::uint8_t* query = scratch + at.queries + static_cast<std::size_t>(row) * head.depth;
  const std::int32_t* start = part<std::int32_t>(scratch, at.key_start) + key;
#pragma GCC unroll 8
  for (int r = 0; r < rows_of_scores; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[r][v] = _mm512_load_si512(start + v * 16);
  for (int i = 0; i < head.depth; i += 4, panel += 4 * attention8::tile_keys) {
    __m512i shared[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) shared[v] = _mm512_load_si512(panel + v * 64);
#pragma GCC unroll 8
    for (int r = 0; r < rows_of_scores; ++r) {
      const __m512i own = four_bytes(query + static_cast<std::size_t>(r) * head.depth + i);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) add_dot4(sums[r][v], own, shared[v]);
    }
  }
  const float *scale = part<float>(scratch, at.key_scale) + key, *added = part<float>(scratch, at.key_added) + key;
  float* to = part<float>(scratch, at.scores) + static_cast<std::size_t>(row) * at.padded_keys + key;
#pragma GCC unroll 8
  for (int r = 0; r < rows_of_scores; ++r, to += at.padded_keys)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m512 score = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][v]), _mm512_load_ps(scale + v * 16),
                                           _mm512_load_ps(added + v * 16));
      _mm512_store_ps(to + v * 16, score);
      top[row + r] = _mm512_max_ps(top[row + r], score);
    }
}

// 2^x to 1e-4 of it, for x in [-126, 126].
inline __m512 rough_exp2(__m512 x) noexcept {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.0780245f), f, _mm512_set1_ps(0.2260671f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6958335f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999252f));
  return _mm512_scalef_ps(p, x);
}

// weights[key] = round(255 e^(score - largest)) of one query; returns 1 / their sum, 0 where every key is hidden.
inline float weigh(const attention8::Layout& at, int row, float scale, __m512 top, std::uint8_t* scratch) noexcept {
  const float most = _mm512_reduce_max_ps(top);
  const float shift = most == -__builtin_inff() ? 0.0f : most;
  const __m512 factor = _mm512_set1_ps(scale), start = _mm512_set1_ps(7.9943534f - shift * scale);  // log2(255)
  const float* scores = part<float>(scratch, at.scores) + static_cast<std::size_t>(row) * at.padded_keys;
  std::uint8_t* weights = scratch + at.weights + static_cast<std::size_t>(row) * at.padded_keys;
  __m512i total = _mm512_setzero_si512();
  for (int key = 0; key < at.padded_keys; key += 16) {
    const __m512 power = _mm512_fmadd_ps(_mm512_load_ps(scores + key), factor, start);
    const __m512i w = _mm512_cvtps_epi32(rough_exp2(_mm512_max_ps(_mm512_set1_ps(-64.0f), power)));
    total = _mm512_add_epi32(total, w);
    _mm_store_si128(reinterpret_cast<__m128i*>(weights + key), _mm512_cvtusepi32_epi8(w));
  }
  const int sum = _mm512_reduce_add_epi32(total);
  return sum == 0 ? 0.0f : 1.0f / static_cast<float>(sum);
}

// y of `rows` queries and `vectors` times 16 features.
template <int rows, int vectors>
inline void value_tile(const attention8::Head& head, const attention8::Layout& at, int first, int row, int valid,
                       int feature, std::uint8_t* scratch, const float* factors) noexcept {
  __m512i sums[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = _mm512_setzero_si512();
  const std::uint8_t* weight = scratch + at.weights + static_cast<std::size_t>(row) * at.padded_keys;
  const std::uint8_t* value = scratch + at.values + feature * 4;
  for (int key = 0; key < head.keys; key += 4, value += 4 * head.depth) {
    __m512i shared[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) shared[v] = _mm512_load_si512(value + v * 64);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const __m512i own = four_bytes(weight + static_cast<std::size_t>(r) * at.padded_keys + key);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) add_dot4(sums[r][v], own, shared[v]);
    }
  }
  const float* scale = part<float>(scratch, at.value_scale) + feature;
  float* to = head.y + (first + row) * head.y_row + feature;
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r, to += head.y_row) {  // a loop that ends early would keep the sums in memory
    if (row + r >= valid) continue;
    const __m512 factor = _mm512_set1_ps(factors[row + r]);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      _mm512_storeu_ps(to + v * 16, _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]),
                                                  _mm512_mul_ps(_mm512_load_ps(scale + v * 16), factor)));
  }
}

inline void attend_block8(const attention8::Head& head, const attention8::Layout& at, int first, int last,
                          std::uint8_t* scratch) noexcept {
  __m512 top[attention8::block_queries];
  float factors[attention8::block_queries];
  const int rows = last - first;
  put_queries(head, at, first, last, scratch);
  for (__m512& t : top) t = _mm512_set1_ps(-__builtin_inff());
  for (int key = 0; key < at.padded_keys; key += attention8::tile_keys)
    for (int row = 0; row < rows; row += rows_of_scores) score_tile(head, at, row, key, scratch, top);
  for (int row = 0; row < rows; ++row)
    factors[row] = weigh(at, row, part<float>(scratch, at.query_scale)[row], top[row], scratch);
  int feature = 0;
  for (; feature + 64 <= head.depth; feature += 64)
    for (int row = 0; row < rows; row += 6) value_tile<6, 4>(head, at, first, row, rows, feature, scratch, factors);
  for (; feature + 32 <= head.depth; feature += 32)
    for (int row = 0; row < rows; row += 12) value_tile<12, 2>(head, at, first, row, rows, feature, scratch, factors);
  for (; feature < head.depth; feature += 16)
    for (int row = 0; row < rows; row += 12) value_tile<12, 1>(head, at, first, row, rows, feature, scratch, factors);
}

inline void attention8_attend(const attention8::Head& head, int first, int last, std::uint8_t* scratch) noexcept {
  const attention8::Layout at(head.keys, head.depth);
  for (int query = first; query < last; query += attention8::block_queries) {
    const int end = query + attention8::block_queries < last ? query + attention8::block_queries : last;
    attend_block8(head, at, query, end, scratch);
  }
}
