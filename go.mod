module pipefill

go 1.26
