// How a line of spmm.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_SPMM_ID(isa, rows, tokens, depth) isa##_r##rows##_t##tokens##_k##depth
#define RAREFY_SPMM_NAME(isa, rows, tokens, depth) "spmm-" #isa "-r" #rows "-t" #tokens "-k" #depth
