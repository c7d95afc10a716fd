#compdef pipefill-cli
# Made by `go test ./cli -run Completion -update`.
local -a commands choices flags
commands=(
	'archive:write the accounting to a file, and take it in again (operators)'
	'audit:list what operators ordered, when and why  audit (start=TIME) (end=TIME) (operators); today by default'
	'bubbles:show the bubble cycle of a running main job, device by device'
	'cancel:cancel fill jobs, as scancel does'
	'config:work with configuration files'
	'doctor:look at Slurm’s configuration and at pipefill’s daemons, and say what to mend; exit status 4 if something is bad'
	'drain:start no more fill jobs on the site, on nodes, or of accounts (operators); without arguments list what is drained'
	'explain:tell why fill jobs wait, and when they are expected to start'
	'hold:keep fill jobs from being started'
	'plan:make the execution plan of fill jobs for a device’s bubble cycle, from files'
	'policy:scheduling policies  policy list|check|explain|predictions'
	'priority:put a fill job before (N > 0) or behind (N < 0) its owner’s other jobs'
	'profile:run a program of the fill SDK to measure its ops on this device, and write its fill profile'
	'queue:list fill jobs, as squeue does; those that ended up to ten minutes ago too'
	'release:undo hold'
	'report:sum up usage  report cluster|user|account|job|main|node (start=TIME) (end=TIME) (format=LIST), as sreport does; today by default'
	'resume:undo drain (operators)'
	'simulate:tell what filling would give a cluster, by running scheduler and planner in simulated time'
	'slots:list the devices of running main jobs'
	'submit:submit a batch script as a fill job  sbatch --hold into the fill partition'
	'top:watch devices, what fills them, and the queue; a plain list where the output is no terminal'
	'trace:write the timeline of a main job, as it was recorded or from raw traces, for Perfetto (ui.perfetto.dev)'
	'try:run a main job and fill jobs on this machine, without Slurm, and report; root only'
)
if ((CURRENT == 2)); then
	_describe command commands
	return
fi
case $words[2] in
archive) choices=(dump load) flags=(--help) ;;
audit) choices=(start= end=) flags=(--help --json --noheader --parsable2) ;;
bubbles) choices=() flags=(--cycle --help --json --noheader --parsable2) ;;
cancel) choices=() flags=(--help --why) ;;
config) choices=(check) flags=(--help) ;;
doctor) choices=() flags=(--config --help --json --node-config --noheader --parsable2 --partition --slurm-conf) ;;
drain) choices=(site node account) flags=(--evict --help --json --noheader --parsable2 --why) ;;
explain) choices=() flags=(--help --json --noheader --parsable2) ;;
hold) choices=() flags=(--help --why) ;;
plan) choices=() flags=(--bubbles --explain --help --html --json --main-state --noheader --parsable2 --profile --single --svg) ;;
policy) choices=(list check explain predictions) flags=(--help) ;;
priority) choices=() flags=(--help --why) ;;
profile) choices=() flags=(--batch-size --help --json --out --repeats --technique --warm-up) ;;
queue) choices=() flags=(--format --help --json --noheader --parsable2 --states --user) ;;
release) choices=() flags=(--help --why) ;;
report) choices=(cluster user account job main node start= end= format=) flags=(--help --json --noheader --parsable2 --time) ;;
resume) choices=(site node account) flags=(--help --why) ;;
simulate) choices=() flags=(--beyond --from-cluster --help --html --json --paper --seed) ;;
slots) choices=() flags=(--help --json --noheader --parsable2) ;;
submit) choices=() flags=(--help) ;;
top) choices=() flags=(--batch --delay --help --iterations) ;;
trace) choices=() flags=(--help --html --last --nodelist --output) ;;
try) choices=() flags=(--alone --device --dir --fill --help --json --limit --main --mode --no-hooks --options --profile --set --user) ;;
esac
if [[ $PREFIX == -* ]]; then
	compadd -- $flags
else
	compadd -- $choices
	_files
fi
