// Package metrics serves a daemon's figures to Prometheus. It is the one door
// to the Prometheus library; what there is to tell, each daemon knows.
//
// Label values are bounded: devices, nodes, states and outcomes, never jobs or
// users.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pipefill"
)

// Family is a metric that is computed when it is asked for.
type Family struct {
	desc    *prometheus.Desc
	kind    prometheus.ValueType
	name    string
	samples func(emit func(value float64, labels ...string))
}

// Counter and Gauge name a metric, pipefill_NAME, and what it is; samples emits
// its values, each with one value for every label.
func Counter(name, help string, labels []string, samples func(emit func(value float64, labels ...string))) Family {
	return family(prometheus.CounterValue, name, help, labels, samples)
}

// Gauge is a value that goes up and down: see Counter.
func Gauge(name, help string, labels []string, samples func(emit func(value float64, labels ...string))) Family {
	return family(prometheus.GaugeValue, name, help, labels, samples)
}

func family(kind prometheus.ValueType, name, help string, labels []string, samples func(emit func(value float64, labels ...string))) Family {
	name = "pipefill_" + name
	return Family{desc: prometheus.NewDesc(name, help, labels, nil), kind: kind, name: name, samples: samples}
}

// Describe and Collect make a Family a collector.
func (f Family) Describe(out chan<- *prometheus.Desc) { out <- f.desc }

// Collect sends the family's samples.
func (f Family) Collect(out chan<- prometheus.Metric) {
	f.samples(func(value float64, labels ...string) {
		m, err := prometheus.NewConstMetric(f.desc, f.kind, value, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(f.desc, err)
		}
		out <- m
	})
}

// Handler answers GET /metrics with the families, the program's version, and
// Go's own figures.
func Handler(families []Family) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	all := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
	all = append(all, Gauge("build_info", "always 1; the version is the label", []string{"version"}, func(emit func(float64, ...string)) {
		emit(1, pipefill.Version())
	}))
	for _, f := range families {
		all = append(all, f)
	}
	for _, c := range all {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux, nil
}

// CheckAddress tells whether a daemon can be told to listen there; "" is not
// to listen at all.
func CheckAddress(address string) error {
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil && port != "" && (host == "" || net.ParseIP(host) != nil || host == "localhost") {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return nil
		}
	}
	return pipefill.Errorf(pipefill.CodeInvalid, "%q: write IP:PORT, as 127.0.0.1:9471, or nothing", address)
}

// Serve listens until ctx ends. A port that is taken is an error at once.
func Serve(ctx context.Context, address string, families []Family, log *slog.Logger) (wait func() error, err error) {
	if address == "" {
		return func() error { return nil }, nil
	}
	handler, err := Handler(families)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, pipefill.Errorf(pipefill.CodeUnavailable, "metrics: %w", err)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		MaxHeaderBytes: 1 << 14, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	return func() error {
		defer stop()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("metrics: %w", err)
		}
		return nil
	}, nil
}
