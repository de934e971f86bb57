/* Where the functions that the extension uses stand in this SQLite's table: SLOTS comes from the test. */
#include <sqlite3ext.h>
#include <stddef.h>
#include <stdio.h>
#define P(x) printf("%s %zu\n", #x, offsetof(struct sqlite3_api_routines, x) / sizeof(void *))
int main(void) {
#include "slots.inc"
  return 0;
}
