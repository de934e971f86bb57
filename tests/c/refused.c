/* Hosts that the extension must refuse to load into: a table of functions that only pretends. */
#include <dlfcn.h>
#include <sqlite3ext.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int version, threadsafe;
static int fake_version(void) { return version; }
static const char *fake_text(void) { return "3.31.1"; }
static int fake_threadsafe(void) { return threadsafe; }
static void unexpected(void) { fprintf(stderr, "a function was called that must not be\n"); exit(3); }
static char *fake_mprintf(const char *format, ...) {
  va_list args;
  char *text = malloc(1000);
  va_start(args, format);
  vsnprintf(text, 1000, format, args);
  va_end(args);
  return text;
}

int main(int argc, char **argv) {
  struct sqlite3_api_routines table;
  void (**slots)(void) = (void (**)(void)) & table;
  for (size_t i = 0; i < sizeof table / sizeof *slots; i++) slots[i] = unexpected;
  version = atoi(argv[1]);
  threadsafe = atoi(argv[2]);
  table.libversion_number = fake_version;
  table.libversion = fake_text;
  table.xthreadsafe = fake_threadsafe;
  table.mprintf = fake_mprintf;
  if (argc > 3) table.create_filename = 0;
  void *library = dlopen(getenv("LIBRARY"), RTLD_NOW);
  if (!library) { fprintf(stderr, "%s\n", dlerror()); return 2; }
  int (*init)(sqlite3 *, char **, const sqlite3_api_routines *) = dlsym(library, "sqlite3_litestreamvfs_init");
  char *error = 0;
  int rc = init(0, &error, &table);
  printf("%d %s\n", rc, error ? error : "-");
  rc = init(0, 0, &table);
  printf("%d\n", rc);
  return 0;
}
