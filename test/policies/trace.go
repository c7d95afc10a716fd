package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// trace is where run times are from.
type trace struct {
	name, file string
	// seconds reads a row by its columns' names; 0 or less: not a run.
	seconds func(row map[string]string) (float64, error)
}

// traces are read where they lie: the second may be studied, but not handed on.
var traces = []trace{
	{"Alibaba v2020 (Philly run times)", "alibaba-gpu-v2020/philly_runtime.csv", func(row map[string]string) (float64, error) {
		return strconv.ParseFloat(row["runtime"], 64)
	}},
	{"Alibaba v2023 (GPU pods)", "alibaba-gpu-v2023/openb_pod_list_default.csv", func(row map[string]string) (float64, error) {
		if row["num_gpu"] == "0" || row["scheduled_time"] == "" || row["deletion_time"] == "" {
			return 0, nil
		}
		start, err1 := strconv.ParseFloat(row["scheduled_time"], 64)
		end, err2 := strconv.ParseFloat(row["deletion_time"], 64)
		return end - start, errors.Join(err1, err2)
	}},
}

// longest cuts run times, in seconds: sites give fill jobs a time limit too.
const longest = 24 * 3600

// read returns the run times of a trace, in seconds, and what part was cut.
func (t trace) read(data string) (seconds []float64, cut float64, err error) {
	path := filepath.Join(data, t.file)
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	r := csv.NewReader(file)
	header, err := r.Read()
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", path, err)
		}
		row := map[string]string{}
		for i, name := range header {
			row[name] = fields[i]
		}
		x, err := t.seconds(row)
		if err != nil {
			line, _ := r.FieldPos(0)
			return nil, 0, fmt.Errorf("%s: line %d: %w", path, line, err)
		}
		if x > longest {
			x = longest
			cut++
		}
		if x > 0 {
			seconds = append(seconds, x)
		}
	}
	if len(seconds) == 0 {
		return nil, 0, fmt.Errorf("%s: no run in it: are these the columns? %v", path, header)
	}
	return seconds, cut / float64(len(seconds)), nil
}
