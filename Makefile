# otelcol-gpu. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

# go-nvml's header marks functions as deprecated; without this the build prints
# hundreds of warnings. It is part of the build cache's key: use make's targets.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations
export CGO_ENABLED := 1

GO_FILES := $(shell git ls-files '*.go' 2>/dev/null; git ls-files -o --exclude-standard '*.go' 2>/dev/null)
# What the distribution is built from: components and internal/, their embedded files
# included, without tests.
PRODUCT_FILES := $(filter-out %_test.go internal/testing/%,$(filter receiver/% connector/% extension/% internal/%,$(GO_FILES) $(shell git ls-files '*.yaml')))
# The Go modules that hold packages; the root is ".".
MODULES := $(shell scripts/modules.sh)
BINARY := bin/otelcol-gpu
# The tests of the live page in Chromium, a module of their own.
PAGE_TESTS := connector/gpuadvisorconnector/internal/page/browser
# Prints the figure lines of a benchmark's output.
FIGURES := go run ./internal/testing/figure/benchfigures

# What `make run` can be told: make run STORE_PORT=9428 RUN_SECONDS=30 …
RUN_SETTINGS := RUN_SECONDS STORE_PORT HEALTH_PORT TELEMETRY_PORT VMALERT_PORT ALERTMANAGER_PORT LOGS_PORT INTERVAL SIMULATED_CARDS JAEGER
# When `make run` began, and whether Go had anything cached: for its figure.
ifneq ($(filter run,$(MAKECMDGOALS)),)
export RUN_BEGIN := $(shell date +%s)
export RUN_CACHES := $(shell scripts/caches.sh)
endif
export $(RUN_SETTINGS) RECORD
# When `make test` began, for its figure: the goal is that of a machine with warm caches.
ifneq ($(filter test,$(MAKECMDGOALS)),)
export TEST_BEGIN := $(shell date +%s)
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## check what the build needs, and install it where this is Debian and the user may
	@scripts/setup.sh

.PHONY: run
run: setup ## the main job on this machine's GPUs, or on simulated ones; ends on Ctrl-C or after RUN_SECONDS; ports: STORE_PORT VMALERT_PORT ALERTMANAGER_PORT LOGS_PORT …
	@scripts/prefetch.sh & $(MAKE) --no-print-directory build; built=$$?; wait; exit $$built
	@go build -C lab -trimpath -o ../bin/run ./run
	@exec bin/run

.PHONY: build
build: $(BINARY) ## build the distribution (bin/otelcol-gpu)

# ocb writes the main package; it is written again when what goes into it changes.
_build/main.go: builder-config.yaml go.mod
	@echo "generating the distribution with ocb"
	@"$$(scripts/tool.sh builder)" --config builder-config.yaml --skip-compilation >_build.log 2>&1 || { cat _build.log; exit 1; }
	@rm -f _build.log

$(BINARY): _build/main.go $(PRODUCT_FILES)
	@scripts/build.sh $(CURDIR)/$(BINARY)

.PHONY: test
test: setup browser build servers validate unit page-test e2e ## all set-up, then every test
	@s=$$(($$(date +%s) - TEST_BEGIN)); echo "figure test.seconds $$s s goal <= 1320 $$([ $$s -le 1320 ] && echo met || echo missed)"

# What one goroutine does, virtual time apart: tests that the race detector slows by ten and cannot help.
ONE_GOROUTINE := ./internal/testing/words ./extension/queuecheckextension ./receiver/comfyuireceiver/internal/inputs

.PHONY: unit
unit: ## unit tests, with the race detector; without it those of one goroutine, of allocations, of virtual time, and the nvml receiver without cgo
	@for m in $(filter-out e2e lab $(PAGE_TESTS) tools/%,$(MODULES)); do echo "unit tests of $$m"; go test -C $$m -timeout 10m -race $$(go list -C $$m ./... | grep -v '/internal/testing/words$$') || exit 1; done
	@for m in $(filter tools/%,$(MODULES)); do echo "unit tests of $$m"; go test -C $$m -timeout 10m ./... || exit 1; done # one goroutine each
	@echo "unit tests of lab"; go test -C lab -timeout 10m -race $$(go list -C lab ./... | grep -v -E '/(overload|memorymix|weeks)$$')
	go test -timeout 10m $(ONE_GOROUTINE)
	go test -timeout 10m -run '^TestAScrapeAllocates' ./receiver/nvmlreceiver
	go test -timeout 10m -run '^Test(Energy|BillsOf|ACounterThat|HostileInput)' ./connector/gpucorrelationconnector/internal/join
	go test -C lab -timeout 10m ./overload ./memorymix ./weeks # virtual time: Go 1.26's race detector crashes now and then in timers of testing/synctest
	CGO_ENABLED=0 go test -timeout 10m ./receiver/nvmlreceiver/...

.PHONY: e2e
e2e: build servers browser ## end-to-end tests: the built collector against real servers
	@scripts/e2e.sh # without the race detector, which the simulators have in their unit tests

.PHONY: servers
servers: ## build the servers that the tests start, and install ComfyUI's npm clients (once; kept in .cache)
	@for s in victoria-metrics vmalert vmalert-tool victoria-logs prometheus promtool alertmanager amtool jaeger; do scripts/tool.sh $$s >/dev/null || exit 1; done
	@scripts/npm.sh >/dev/null

.PHONY: browser
browser: ## check that Chromium is there, which tests of pages need, and install it where this is Debian and the user may
	@scripts/setup.sh tests

.PHONY: validate
validate: build rules-test ## check every ready configuration, the scrape job, the rules as rules-test, and the dashboards' files
	@go -C tools/dashboards run . check "$(CURDIR)"
	@for c in $(filter-out config/logs.yaml config/observe.yaml config/enforce.yaml,$(wildcard config/*.yaml)); do echo "validate $$c"; $(BINARY) validate --config $$c || exit 1; done
	@for c in default node comfyui no-loss; do for second in dcgm-names logs "dcgm-names logs"; do echo "validate config/$$c.yaml with $$second"; \
		$(BINARY) validate --config config/$$c.yaml $$(printf -- ' --config config/%s.yaml' $$second) || exit 1; done; done
	@for second in observe enforce "logs observe"; do echo "validate config/comfyui.yaml with $$second"; \
		$(BINARY) validate --config config/comfyui.yaml $$(printf -- ' --config config/%s.yaml' $$second) || exit 1; done
	@"$$(scripts/tool.sh promtool)" check config --syntax-only deploy/prometheus/scrape/otelcol-gpu.yaml >/dev/null

.PHONY: dashboards-check
dashboards-check: build servers browser ## dashboards of Grafana and vmui: schema and rules; every query at a Prometheus and a VictoriaMetrics that the collector fills; facts of a recorded day; vmui's in Chromium. Prints figures
	@go -C tools/dashboards run . check "$(CURDIR)"
	@go test -C e2e -count=1 -timeout 15m -run '^(TestEveryPanelAnswers|TestCapacity.*|TestVMUI.*)$$' -v . | grep --line-buffered -E '^figure|--- (FAIL|PASS): Test[A-Za-z]* |FAIL|panic|_test.go|Error:|Messages:'

.PHONY: page-test
page-test: browser ## the types of the scripts of the live page, and the page in Chromium: 1 to 64 GPUs, each width, language, theme and state; keyboard, restarts, eight tabs, without scripts. Prints figures
	@scripts/page-types.sh
	@go test -count=1 -timeout 5m -run '^TestTheAssetsAreSmall$$' -v ./$(dir $(PAGE_TESTS)) | grep -E '^figure|FAIL|_test.go|Error:'
	@go test -C $(PAGE_TESTS) -count=1 -parallel 4 -timeout 10m -v . | grep --line-buffered -E '^figure|--- (FAIL|PASS): Test[A-Za-z]* |FAIL|panic|_test.go|Error:|Messages:'

.PHONY: bench-page
bench-page: build ## the live page: CPU of 20 viewers at 8 GPUs, live heap of 10,000 prompts and of half an hour of 64 GPUs; prints figures
	@go test -count=1 -timeout 5m -run '^TestTenThousandPromptsFit$$' -v ./connector/gpuadvisorconnector/internal/prompts -prompts 10000 | grep -E '^figure|FAIL|_test.go|Error:'
	@go test -count=1 -timeout 5m -run '^TestHalfAnHourOf64GPUsIsSmall$$' -v ./connector/gpuadvisorconnector/internal/machine | grep -E '^figure|FAIL|_test.go|Error:'
	@go test -C e2e -count=1 -timeout 5m -run '^TestTwentyViewersCostLittle$$' -v . -page-time 10s | grep --line-buffered -E '^figure|FAIL|panic|_test.go|Error:|Messages:'
	@go test -timeout 10m -run '^$$' -bench '^BenchmarkTwentyViewers$$' -benchtime 300x ./connector/gpuadvisorconnector/internal/page | $(FIGURES)

.PHONY: page-screenshots
page-screenshots: browser ## the screenshots of the live page under docs/images/page, again; look at each
	@go test -C $(PAGE_TESTS) -count=1 -timeout 5m -run '^TestScreenshots$$' . -screenshots "$(CURDIR)/docs/images/page"

.PHONY: run-screenshots
run-screenshots: browser ## the README's screenshots of the page, from a make run that goes on (PAGE=http://127.0.0.1:8890), by the button; look at each
	@go test -C $(PAGE_TESTS) -count=1 -timeout 10m -run '^TestScreenshotsOfMakeRun$$' -v . -screenshots "$(CURDIR)/docs/images" -make-run $${PAGE:-http://127.0.0.1:8890}

.PHONY: screenshots
screenshots: build servers browser ## the screenshots of vmui's dashboards under docs/images, again
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; go test -C e2e -c -o "$$folder/python3" . && cd e2e && \
		"$$folder/python3" -test.timeout 25m -test.run '^TestVMUI' -screenshots "$(CURDIR)/docs/images" # its name is shown as that of ComfyUI's process

.PHONY: rules-test
rules-test: ## recording rules and alerts with figures, in promtool and vmalert-tool, and a runbook for each alert; prints how many
	@scripts/rules-test.sh

.PHONY: e2e-alerts
e2e-alerts: build servers ## every alert caused and firing in a Prometheus and a vmalert; a healthy hour; the way to each channel. Prints figures
	@go test -C e2e -count=1 -timeout 20m -run '^(TestEveryAlertFires|TestAHealthyHourIsSilent|TestTheArticlesStory|TestRulesName.*|TestAlertsReach.*|TestManyAlerts.*|TestALostGPUIsOneMessage|TestEveryAlertHas.*)$$' -v . | grep --line-buffered -E '^figure|--- (FAIL|PASS): Test[A-Za-z]* |FAIL|panic|_test.go|Error:|Messages:'

.PHONY: lint
lint: ## golangci-lint, the word lists, go vet without cgo and for other systems, gofmt, syntax of the scripts
	@lint="$$(scripts/tool.sh golangci-lint)"; for m in $(MODULES); do echo "lint of $$m"; (cd $$m && "$$lint" run ./...) || exit 1; done
	@CGO_ENABLED=0 go vet ./receiver/... ./connector/... ./internal/nvml/...
	@GOOS=darwin CGO_ENABLED=0 go vet ./receiver/... ./connector/...
	@for s in scripts/*.sh .ci/run; do bash -n $$s || exit 1; done
	@go test -count=1 ./internal/testing/words
	@test -z "$$(gofmt -l $(GO_FILES))" || { echo "gofmt these:"; gofmt -l $(GO_FILES); exit 1; }

.PHONY: generate
generate: ## write the generated files again, and tidy every module
	@for m in $(MODULES); do (cd $$m && go mod tidy) || exit 1; done
	@cd tools && for m in ../receiver/*/metadata.yaml ../connector/*/metadata.yaml ../extension/*/metadata.yaml; do "$$(../scripts/tool.sh mdatagen)" $$m || exit 1; done
	@go -C tools/gendocs run . "$(CURDIR)"
	@go -C tools/rules run . render "$(CURDIR)"
	@go -C tools/dashboards run . render "$(CURDIR)"
	@go -C cmd/otelcol-gpu-report run ./internal/gendocs "$(CURDIR)"
	@scripts/page-vendor.sh
	@go test -count=1 -run '^TestTheOpenAPIDocumentIsCurrent$$' ./connector/gpuadvisorconnector/internal/page -update >/dev/null

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZ_SECONDS (10); prints executions
	@scripts/fuzz.sh

.PHONY: bench
bench: build ## cost of a scrape beside a plain loop, memory of the running distribution, cost of its queue on disk; prints figures
	@go test -timeout 10m -run '^$$' -bench '^Benchmark(Scrape|Receiver)' ./receiver/nvmlreceiver | $(FIGURES)
	@go test -C e2e -run '^$$' -bench '^(BenchmarkResidentMemory|BenchmarkQueueOnDisk)$$' -benchtime 1x . | $(FIGURES)

.PHONY: bench-proxy
bench-proxy: ## what the ComfyUI proxy adds: latency, throughput of previews, text frames, open sockets
	@go test -timeout 10m -run '^$$' -bench . -benchtime 1x ./receiver/comfyuireceiver | $(FIGURES)

.PHONY: bench-correlation
bench-correlation: ## spans a second of the correlation, bytes per waiting span, memory over an hour in virtual time
	@go test -timeout 10m -run '^$$' -bench . -benchtime 1x ./connector/gpucorrelationconnector/internal/join | $(FIGURES)

.PHONY: bench-energy
bench-energy: ## what spans are billed beside the power that simulated GPUs with every kind of energy counter drew, in virtual time: bias, error, coverage; ENERGY_SEED (a new one)
	@ENERGY_SEED=$${ENERGY_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} go test -count=1 -timeout 5m -run '^TestEnergy(IsAs|OfProc|OfNodes)' -v ./connector/gpucorrelationconnector/internal/join | grep --line-buffered -E '^figure|^energy seed|--- FAIL|FAIL|panic|_test.go'

.PHONY: e2e-comfyui
e2e-comfyui: build servers browser ## every recording of a real ComfyUI, the simulated ones and the web page through the built collector; prints figures
	@go test -C e2e -count=1 -timeout 20m -run '^TestRecordings|^TestPromptsAre|^TestClients|^TestTheWebPage' -v . | grep --line-buffered -E '^figure|--- (FAIL|PASS): Test[A-Za-z]* |FAIL|panic|_test.go'

.PHONY: e2e-correlation
e2e-correlation: build servers ## PROMPTS (1000) on shared GPUs, and twice EXECUTIONS (100) on each kind of energy counter: what stands on their spans against what the GPUs did; prints figures
	@go test -C e2e -count=1 -timeout 40m -run '^(TestBillsAgreeWithTheTruth|TestEnergyOfEveryKind.*)$$' -v . -goals -prompts $${PROMPTS:-1000} -executions $${EXECUTIONS:-100} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: bench-memory
bench-memory: build servers ## EXECUTIONS (1200) on eight simulated ComfyUIs: what spans say that they needed against what their allocators did; prints figures
	@go test -C e2e -count=1 -timeout 30m -run '^TestNeedAgreesWithTheTruth$$' -v . -memory-executions $${EXECUTIONS:-1200} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: bench-calls
bench-calls: build servers ## NVML calls per GPU and second of each configuration, the lock's time, CPU, false reports, hostile drivers, for CALLS (60s) each; prints figures (12 minutes)
	@go test -C e2e -count=1 -timeout 40m -run '^(TestCallsOf|TestTheComfyUIConfigurationUses|TestAHostileDriver|TestACallThatHangs)' -v . -calls $${CALLS:-60s} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: bench-overload
bench-overload: build ## a rush on simulated ComfyUI servers in virtual time, at LOADS (0.7 1 2 5) times capacity, the worst of SEEDS (5), each for LASTS (3000s): what reaches its client in time, without a response, with the product that enforces, and with one that knows what everything costs; how well it predicts; a burst; then one seed at twice capacity in real time through the built collector, for LIVE (600s). Prints figures (30 minutes)
	@GOGC=400 go test -C lab -count=1 -timeout 90m -run '^Test(Rush|Classes|ATenant|Impatient|DrainIs|RefusedAtOnce)' -v ./overload -seeds $${SEEDS:-5} -lasts $${LASTS:-3000s} -loads "$${LOADS:-0.7 1 2 5}" | grep --line-buffered -E '^figure|--- FAIL|FAIL|panic|_test.go:.*Error|Error:|Messages:'
	@go test -C e2e -count=1 -timeout 30m -run '^TestRushThroughTheCollector$$' -v . -rush-lasts $${LIVE:-600s} | grep --line-buffered -E '^figure|--- FAIL|FAIL|panic|_test.go:.*Error|Error:|Messages:'

.PHONY: bench-admission
bench-admission: ## memory on simulated GPUs of 8 to 24 GiB in virtual time, for PROMPTS (10000) in broad and in boundary mixes, the worst of SEEDS (5): what the product admits that runs out of memory, and refuses that would have fitted; prints figures
	@go test -C lab -count=1 -timeout 30m -run '^TestTheProduct' -v ./memorymix -prompts $${PROMPTS:-10000} -seeds $${SEEDS:-5} | grep --line-buffered -E '^figure|--- FAIL|FAIL|panic|_test.go:.*Error|Error:|Messages:'

.PHONY: bench-input
bench-input: ## the photographs of PHOTOS=FOLDER (black-and-white ones in its folder black-and-white) as they are, toned, as old prints and compressed; IMAGES (200) generated images, a quarter of 12 megapixels, and bombs, with the product's limits of memory and (in processor time) of time: how many are judged rightly, how many not at all, what the dearest costs; prints figures
	@go test -count=1 -timeout 20m -run '^Test(PoorInputIsFound|PhotosAreJudged)$$' -v ./receiver/comfyuireceiver/internal/inputs -images $${IMAGES:-200} -large-side 4000 -strict -photos '$(if $(PHOTOS),$(abspath $(PHOTOS)))' | grep --line-buffered -E '^figure|--- FAIL|FAIL|panic|_test.go|Error:|Messages:'

.PHONY: bench-advice
bench-advice: ## decisions a second of processor time, and their 99th percentile, for 64 GPUs and 256 servers with 1,000 waiting prompts of 200 classes, while prompts, samples and traces come; over HTTP; what enforcement adds to a prompt; prints figures
	@go test -run '^$$' -bench '^BenchmarkAdvice$$' -benchtime 200000x ./internal/advice | $(FIGURES)
	@go test -run '^$$' -bench '^BenchmarkAdviceOverHTTP$$' -benchtime 1x ./connector/gpuadvisorconnector/internal/page | $(FIGURES)
	@go test -run '^$$' -bench '^BenchmarkPromptWithEnforcement$$' -benchtime 1x ./receiver/comfyuireceiver | $(FIGURES)

.PHONY: bench-recommend
bench-recommend: ## simulated weeks that are short of memory, of time and of nothing, SEEDS (5) of each, with people at any time of the day: what is named, and how far recommended sizes are from those that really do; cost. Prints figures (5 minutes)
	@go test -C lab -count=1 -timeout 60m -v ./weeks -seeds $${SEEDS:-5} -whole | grep --line-buffered -E '^figure|--- FAIL|FAIL|panic|_test.go:.*Error|Error:|Messages:'
	@go test -run '^$$' -bench . ./internal/recommend | $(FIGURES)
	@go test -run '^$$' -bench '^BenchmarkRecommenderTraces$$' ./connector/gpuadvisorconnector | $(FIGURES)

.PHONY: bench-peaks
bench-peaks: ## spikes between scrapes and busy time, beside a plain reader; prints figures
	@go test -timeout 10m -run '^$$' -bench '^BenchmarkPeaks' -benchtime 1x ./receiver/nvmlreceiver | $(FIGURES)

.PHONY: e2e-noloss
e2e-noloss: build servers ## the no-loss configuration under KILLS kills (20), refusals and an OUTAGE (60s); prints figures
	@go test -C e2e -count=1 -timeout 60m -run '^(TestNothingAcceptedIsLost|TestQueue.*)$$' -v . -kills $${KILLS:-20} -outage $${OUTAGE:-60s} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: e2e-outage
e2e-outage: build servers ## every configuration's stores away in four ways for OUTAGE (10m), scraped each INTERVAL (5s), and the promises of a kill, SIGTERM and the bound; prints figures
	@go test -C e2e -count=1 -timeout 60m -run '^(TestOutages|TestLongOutage|TestBeyondTheBound|TestKillLoses|TestSIGTERMEnds|TestSlowStore|TestClientThatStops)' -v . -long 24h -away $${OUTAGE:-10m} -interval $${INTERVAL:-5s} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: e2e-damage
e2e-damage: build servers ## every kind of damage on every store file, a full disk, power losses; prints figures
	@go test -C e2e -count=1 -timeout 20m -run '^(TestDamagedStoreFiles|TestFullDisk|TestPowerLoss|TestQueueFolder)' -v . | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: e2e-kills
e2e-kills: build servers ## KILLS (200) kills of the collector under prompts, half of them with the trace store away; prints figures (20 minutes)
	@go test -C e2e -count=1 -timeout 60m -run '^TestKillsLoseNoPrompt$$' -v . -prompt-kills $${KILLS:-200} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: e2e-shutdown
e2e-shutdown: build servers ## RUNS (200) SIGTERMs with open prompts, stores there, away and silent; prints figures (25 minutes)
	@go test -C e2e -count=1 -timeout 60m -run '^TestSIGTERMEndsTheCollector$$' -v . -shutdown-runs $${RUNS:-200} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: e2e-faults
e2e-faults: build servers ## one GPU of eight, and the driver, get one fault after another (FAULT=30s each); prints figures
	@go test -C e2e -count=1 -timeout 60m -run '^TestFaultsOf' -v . -fault $${FAULT:-30s} | grep --line-buffered -E '^figure|---|FAIL|panic|_test.go'

.PHONY: report
report: ## what the GPUs did for the images, as a page: STORE (http://127.0.0.1:8428), TRACES (Jaeger's API; for the slowest), WINDOW (7d), OUT
	@go build -C cmd/otelcol-gpu-report -o $(CURDIR)/bin/otelcol-gpu-report .
	@bin/otelcol-gpu-report -store "$${STORE:-http://127.0.0.1:8428}" -traces "$$TRACES" -window "$${WINDOW:-7d}" -out "$${OUT:-report.html}"

.PHONY: gpu-check-build
gpu-check-build: ## one small binary for machines with a GPU (bin/gpu-check)
	@go build -trimpath -ldflags='-s -w' -o bin/gpu-check ./cmd/gpu-check
	@ls -l bin/gpu-check | awk '{ printf "bin/gpu-check: %.1f MB\n", $$5 / 1e6; exit $$5 > 30e6 }'

.PHONY: gpu-check
gpu-check: gpu-check-build ## the receiver against the real driver, compared with nvidia-smi; a record in testdata/recordings. CALIBRATE=FILE measures the energy counters instead
	bin/gpu-check $(if $(CALIBRATE),-calibrate "$(CALIBRATE)",-record testdata/recordings)

.PHONY: texts
texts: ## thirty log, error and description texts, drawn with the commit as seed, to read aloud
	@go run ./internal/testing/words/texts | shuf -n 30 --random-source=<(while git rev-parse HEAD; do :; done 2>/dev/null | head -c 65536)

.PHONY: lines
lines: ## hand-written lines by folder, without tests, blank and comment lines
	@scripts/lines.sh

.PHONY: clean
clean: ## remove what was built here (not the caches)
	rm -rf bin _build .run
