// Target regions: code between BEGIN and END is compiled for an instruction set that the rest of the file must not use.
// Per-file -m flags would put such code into inline std:: functions that the linker shares with every other file.
#pragma once

#define RAREFY_BEGIN_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,bmi2,popcnt,prfchw\")")
#define RAREFY_BEGIN_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,bmi2,popcnt,prfchw,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512\")")
#define RAREFY_BEGIN_VNNI \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,bmi2,popcnt,prfchw,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512\")")
#define RAREFY_BEGIN_AMX \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,bmi2,popcnt,prfchw,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2,avx512bf16,amx-tile,amx-int8,amx-bf16,prefer-vector-width=512\")")
#define RAREFY_END_REGION _Pragma("GCC pop_options")
