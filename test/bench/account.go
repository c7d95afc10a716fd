package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pipefill"
	"pipefill/api"
	"pipefill/controller/store"
)

// account measures the accounting: records taken in, and reports over a year.
func (b *bench) account(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp(b.build, "account")
	if err != nil {
		return fmt.Errorf("account: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := b.accountIngest(ctx, filepath.Join(dir, "ingest")); err != nil {
		return err
	}
	return b.accountReport(ctx, filepath.Join(dir, "report"))
}

// accountIngest has nodes send what they send after an outage: 2,000 records at a
// time, of eight devices, over many transactions.
func (b *bench) accountIngest(ctx context.Context, dir string) error {
	st, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	const nodes, devices, perSync, syncs = 8, 8, 2000, 10
	assignments, err := runningJobs(ctx, st, nodes, devices)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	var rates []float64
	seq := int64(0)
	for s := range syncs {
		for node := range nodes {
			records := make([]pipefill.Usage, perSync)
			for i := range records {
				seq++
				from := start + int64(s*perSync+i)*5000/devices
				records[i] = pipefill.Usage{
					Ledger: "l", Seq: seq, AssignmentID: assignments[node*devices+i%devices], FromMs: from, ToMs: from + 5000,
					DeviceNs: 1.2e9, CPUNs: 1.1e9, OverrunNs: 1e5, Openings: 40,
				}
			}
			begin := b.now()
			if _, err := st.TakeUsage(ctx, fmt.Sprintf("n%04d", node), records); err != nil {
				return errors.Join(err, st.Close())
			}
			rates = append(rates, perSync/b.now().Sub(begin).Seconds())
		}
	}
	slices.Sort(rates)
	r := row{Name: "accounting: usage records counted and rolled up, 2,000 a sync", Value: rates[len(rates)/2], Unit: "records/s", N: len(rates) * perSync}
	worst := rates[len(rates)/100]
	r.P99 = &worst
	r.aim(20_000, r.Value >= 20_000)
	return errors.Join(b.add(r), st.Close())
}

func openStore(ctx context.Context, dir string) (*store.Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	return store.Open(ctx, dir, slog.New(slog.DiscardHandler))
}

// runningJobs are fill jobs on every device.
func runningJobs(ctx context.Context, st *store.Store, nodes, devices int) ([]int64, error) {
	var seen []store.FillJob
	for i := range nodes * devices {
		seen = append(seen, store.FillJob{
			Cluster: "bench", JobID: int64(i + 1), SubmitMs: 1, ArrayTask: -1, Name: "fill", UID: uint32(1000 + i%20), User: fmt.Sprintf("u%02d", i%20),
			Account: fmt.Sprintf("a%d", i%5), Partition: "pipefill", Requeue: true,
		})
	}
	if err := st.SeeJobs(ctx, 1, seen); err != nil {
		return nil, err
	}
	open, err := st.OpenJobs(ctx)
	if err != nil {
		return nil, err
	}
	var ids []int64
	for i, j := range open {
		node, device := fmt.Sprintf("n%04d", i/devices), pipefill.DeviceID(fmt.Sprintf("cpu:%d", i%devices))
		id, err := st.Reserve(ctx, j, node, device, pipefill.JobKey{Cluster: "bench", JobID: 900_000}, 1)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// accountReport fills a year of 1,024 nodes by day, and the last 35 days by hour
// for the cluster and the nodes, and asks for reports over all of it.
func (b *bench) accountReport(ctx context.Context, dir string) error {
	st, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	st.Zone = time.UTC
	const nodes, days, hourly = 1024, 365, 35
	end := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	b.say("account: writing %d days of %d nodes", days, nodes)
	for d := range days {
		day := end.AddDate(0, 0, -d-1)
		var rows []api.ArchiveRow
		add := func(kind, grain, key, user, account string, at time.Time) {
			rows = append(rows, api.ArchiveRow{Table: "rollup", Row: map[string]any{
				"kind": kind, "grain": grain, "start_ms": at.UnixMilli(), "key": key, "user": user, "account": account, "completed": int64(3),
				"device_ns": int64(2e13), "useful_ns": int64(1.8e13), "cpu_ns": int64(1.7e13), "main_ns": int64(6e14), "bubble_ns": int64(1e14),
				"offered_ns": int64(9e13), "filled_iteration_ns": int64(5e14), "judged_ns": int64(5e14), "slow_ns": int64(1e12), "slow_hi_ns": int64(2e12),
			}})
		}
		add("cluster", "day", "bench", "", "", day)
		if month := day.AddDate(0, 0, 1-day.Day()); d == 0 || day.Day() == 1 {
			add("cluster", "month", "bench", "", "", month)
			for n := range nodes {
				add("node", "month", fmt.Sprintf("n%04d", n), "", "", month)
			}
			for u := range 200 {
				add("user", "month", fmt.Sprintf("u%03d", u), fmt.Sprintf("u%03d", u), fmt.Sprintf("a%d", u%10), month)
			}
		}
		for n := range nodes {
			add("node", "day", fmt.Sprintf("n%04d", n), "", "", day)
			if d < hourly {
				for h := range 24 {
					add("node", "hour", fmt.Sprintf("n%04d", n), "", "", day.Add(time.Duration(h)*time.Hour))
				}
			}
		}
		for u := range 200 {
			add("user", "day", fmt.Sprintf("u%03d", u), fmt.Sprintf("u%03d", u), fmt.Sprintf("a%d", u%10), day)
		}
		for some := range slices.Chunk(rows, 5000) {
			if _, err := st.Load(ctx, some); err != nil {
				return errors.Join(err, st.Close())
			}
		}
	}
	for _, kind := range []string{"cluster", "account", "user", "node"} {
		var took []float64
		for range 20 {
			begin := b.now()
			report, err := st.Report(ctx, kind, "", end.AddDate(-1, 0, 0).UnixMilli(), end.UnixMilli(), end.AddDate(0, 0, -hourly).UnixMilli())
			if err != nil || len(report.Rows) == 0 {
				return errors.Join(fmt.Errorf("report %s: %d rows", kind, len(report.Rows)), err, st.Close())
			}
			took = append(took, b.now().Sub(begin).Seconds()*1000)
		}
		slices.Sort(took)
		r := row{Name: "accounting: report " + kind + " over a year, 1,024 nodes by day, 35 days by hour", Value: took[len(took)/2], Unit: "ms", N: len(took), P99: &took[len(took)-1]}
		r.aim(200, r.Value <= 200)
		if err := b.add(r); err != nil {
			return errors.Join(err, st.Close())
		}
	}
	return st.Close()
}
