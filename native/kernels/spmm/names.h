// How a line of spmm.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_SPMM_ID(isa, how, rows, tokens, depth) isa##_##how##rows##_t##tokens##_k##depth
#define RAREFY_SPMM_NAME(isa, how, rows, tokens, depth) "spmm-" #isa "-" #how #rows "-t" #tokens "-k" #depth
