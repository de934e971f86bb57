/* SQLite's testfixture is built with SQLITE_NO_SYNC: its fsyncs do nothing, so that its many small databases are quick.
 * LD_PRELOAD this, and those of the library beside it do nothing either: both sides of a comparison then measure the
 * same. What a power loss leaves is tested elsewhere, not here. */
#include <stdio.h>

int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
