package metrics_test

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pipefill"
	"pipefill/metrics"
)

func scrape(t *testing.T, families ...metrics.Family) (status int, body string) {
	t.Helper()
	handler, err := metrics.Handler(families)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Code, w.Body.String()
}

func TestHandler(t *testing.T) {
	status, body := scrape(t,
		metrics.Counter("things_total", "things", []string{"device"}, func(emit func(float64, ...string)) {
			emit(3, "cpu:0")
			emit(4, "evil\"\n{}")
		}),
		metrics.Gauge("level_ratio", "a level", nil, func(emit func(float64, ...string)) { emit(math.Inf(1)) }))
	if status != http.StatusOK {
		t.Fatal(status, body)
	}
	for _, want := range []string{
		"# TYPE pipefill_things_total counter", `pipefill_things_total{device="cpu:0"} 3`, `pipefill_things_total{device="evil\"\n{}"} 4`,
		"pipefill_level_ratio +Inf", `pipefill_build_info{version="` + pipefill.Version() + `"} 1`, "go_goroutines",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in:\n%s", want, body)
		}
	}
}

func TestHandler_WrongLabelsAreAnErrorOfTheScrape(t *testing.T) {
	status, body := scrape(t, metrics.Gauge("x", "x", []string{"device"}, func(emit func(float64, ...string)) { emit(1) }))
	if status != http.StatusInternalServerError {
		t.Error(status, body)
	}
}

func TestCheckAddress(t *testing.T) {
	for address, good := range map[string]bool{
		"": true, "127.0.0.1:9470": true, "[::1]:9470": true, ":9470": true, "localhost:9470": true,
		"9470": false, "127.0.0.1": false, "127.0.0.1:": false, "host.example:9470": false, "127.0.0.1:99999": false, "127.0.0.1:x": false,
	} {
		if err := metrics.CheckAddress(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestServe(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	log := slog.New(slog.DiscardHandler)
	if _, err := metrics.Serve(t.Context(), address, nil, log); pipefill.ErrorCode(err) != pipefill.CodeUnavailable {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wait, err := metrics.Serve(ctx, address, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- wait() }()
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || !strings.Contains(string(body), "pipefill_build_info") {
		t.Errorf("%s, %v", body, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if wait, err := metrics.Serve(t.Context(), "", nil, log); err != nil || wait() != nil {
		t.Error("nothing to serve is an error", err)
	}
}
