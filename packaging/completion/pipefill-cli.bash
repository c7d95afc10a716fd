# bash completion for pipefill-cli
# Made by `go test ./cli -run Completion -update`.
_pipefill_cli() {
	local cur="${COMP_WORDS[COMP_CWORD]}" command="" words="" flags="" i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case "${COMP_WORDS[i]}" in
		--controller) ((i++)) ;;
		-*) ;;
		*)
			command="${COMP_WORDS[i]}"
			break
			;;
		esac
	done
	case "$command" in
	"") words="archive audit bubbles cancel config doctor drain explain hold plan policy priority profile queue release report resume simulate slots submit top trace try" flags="--controller --help --version" ;;
	archive) words="dump load" flags="--help" ;;
	audit) words="start= end=" flags="--help --json --noheader --parsable2" ;;
	bubbles) words="" flags="--cycle --help --json --noheader --parsable2" ;;
	cancel) words="" flags="--help --why" ;;
	config) words="check" flags="--help" ;;
	doctor) words="" flags="--config --help --json --node-config --noheader --parsable2 --partition --slurm-conf" ;;
	drain) words="site node account" flags="--evict --help --json --noheader --parsable2 --why" ;;
	explain) words="" flags="--help --json --noheader --parsable2" ;;
	hold) words="" flags="--help --why" ;;
	plan) words="" flags="--bubbles --explain --help --html --json --main-state --noheader --parsable2 --profile --single --svg" ;;
	policy) words="list check explain predictions" flags="--help" ;;
	priority) words="" flags="--help --why" ;;
	profile) words="" flags="--batch-size --help --json --out --repeats --technique --warm-up" ;;
	queue) words="" flags="--format --help --json --noheader --parsable2 --states --user" ;;
	release) words="" flags="--help --why" ;;
	report) words="cluster user account job main node start= end= format=" flags="--help --json --noheader --parsable2 --time" ;;
	resume) words="site node account" flags="--help --why" ;;
	simulate) words="" flags="--beyond --from-cluster --help --html --json --paper --seed" ;;
	slots) words="" flags="--help --json --noheader --parsable2" ;;
	submit) words="" flags="--help" ;;
	top) words="" flags="--batch --delay --help --iterations" ;;
	trace) words="" flags="--help --html --last --nodelist --output" ;;
	try) words="" flags="--alone --device --dir --fill --help --json --limit --main --mode --no-hooks --options --profile --set --user" ;;
	esac
	case "$cur" in
	-*) mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur") ;;
	*) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
	esac
	[[ ${COMPREPLY[0]:-} != *= ]] || compopt -o nospace 2>/dev/null || true
}
complete -o default -F _pipefill_cli pipefill-cli
