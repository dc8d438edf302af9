// How a line of block8.inc becomes an identifier and the name that people see.
#pragma once

#define RAREFY_BLOCK8_ID(isa, shape, rows, tokens, depth) isa##_##shape##_r##rows##_t##tokens##_k##depth
#define RAREFY_BLOCK8_NAME(isa, shape, rows, tokens, depth) "block8-" #isa "-" #shape "-r" #rows "-t" #tokens "-k" #depth
