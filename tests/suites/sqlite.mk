# Builds SQLite's test programs with our stub, file by file so that two cores are used (SQLite's own Makefile gives
# all of testfixture to one compiler). Used beside the configured one: make -f Makefile -f .../sqlite.mk suites
SUITES := $(dir $(lastword $(MAKEFILE_LIST)))
ifdef T.cc
# From 3.49 on SQLite's Makefile has other names, and finds Tcl only while a rule runs.
TCC = $(T.cc.sqlite) $(shell . $(TCL_CONFIG_SH) && echo $$TCL_INCLUDE_SPEC)
LIBTCL = $(shell . $(TCL_CONFIG_SH) && echo $$TCL_LIB_SPEC $$TCL_LIBS)
TLIBS = $(LDFLAGS.libsqlite3)
endif
SUITES_INIT := -DSQLITE_EXTRA_INIT=suites_extra_init
FIXTURE_OBJ := $(patsubst %.c,suites/%.o,$(notdir $(TESTFIXTURE_SRC)))
FIXTURE_CC := $(TCC) -w -DSQLITE_NO_SYNC=1 $(TEMP_STORE) $(TESTFIXTURE_FLAGS) $(SUITES_INIT)
PROGRAM_CC := $(TCC) -w -I$(SUITES) $(SUITES_INIT)
vpath %.c $(sort $(dir $(filter %.c,$(TESTFIXTURE_SRC)))) $(TOP)/mptest $(TOP)/test $(SUITES)

.PHONY: suites
suites: suites/testfixture suites/mptest suites/threadtest3 suites/speedtest1

suites/%.o: %.c | sqlite3.c
	@mkdir -p suites
	$(FIXTURE_CC) -c -o $@ $<

suites/testfixture: $(FIXTURE_OBJ) suites/extra_init.o
	$(TCC) -o $@ $^ $(LIBTCL) $(TLIBS)

suites/program/extra_init.o suites/program/sqlite3.o: suites/program/%.o: %.c | sqlite3.c
	@mkdir -p suites/program
	$(PROGRAM_CC) -c -o $@ $<

suites/mptest: mptest.c suites/program/sqlite3.o suites/program/extra_init.o
	$(PROGRAM_CC) -o $@ $^ $(TLIBS)

suites/threadtest3: threadtest3.c suites/program/sqlite3.o suites/program/extra_init.o
	$(PROGRAM_CC) -o $@ $^ $(TOP)/src/test_multiplex.c $(TLIBS)

suites/speedtest1: speedtest1.c suites/program/sqlite3.o suites/program/extra_init.o
	$(PROGRAM_CC) -DSQLITE_ENABLE_RTREE -o $@ $^ $(TLIBS)
