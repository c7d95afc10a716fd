-- job_submit.lua: pipefill's part of Slurm's job_submit/lua plugin (JobSubmitPlugins=lua).
--
-- It holds the jobs of the fill partitions until pipefillctld gives them a device, takes the GPUs they ask for out of
-- the request (the main job has them; pipefill gives one back while a bubble lasts) and keeps their owners from starting
-- them by other means. Jobs of other partitions pass untouched.
--
-- A site with a job_submit.lua of its own copies the part up to the line of dashes to its top, and calls
-- pipefill.job_submit and pipefill.job_modify first in its functions: a result other than slurm.SUCCESS is returned.

pipefill = {}

-- The fill partitions, as in pipefillctld.yaml.
pipefill.partitions = { pipefill = true }

-- Who may release, hold and move jobs of the fill partitions: root, and SlurmUser's uid where it is another
-- (id -u slurm).
pipefill.operators = { [0] = true }

-- Slurm's marks for "not given", by the width of the field.
local NO_VAL, NO_VAL16 = slurm.NO_VAL or 4294967294, slurm.NO_VAL16 or 65534
local ACCESS_DENIED = slurm.ESLURM_ACCESS_DENIED or 2002

-- The request's fields that can ask for GPUs, and those that only make sense beside them.
local tres_fields = { "tres_per_job", "tres_per_node", "tres_per_socket", "tres_per_task" }
local beside_fields = { "cpus_per_tres", "mem_per_tres", "tres_bind" }

-- What sbatch writes into the job's environment for GPUs; an srun inside would ask for them again. Lua can empty a
-- variable and not remove it, and srun refuses the others of its kind when they are empty (SLURM_CPUS_PER_GPU,
-- SLURM_MEM_PER_GPU, SLURM_NTASKS_PER_GPU, SLURM_GPU_BIND, SLURM_GPU_FREQ): those the SPANK plugin removes.
local gpu_environment = {
	"SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_SOCKET", "SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK",
}

local function given(value, none)
	return value ~= nil and value ~= none
end

local function default_partition(part_list)
	for name, part in pairs(part_list or {}) do
		if part.flag_default == 1 then
			return name
		end
	end
	return nil
end

-- Counts the fill partitions and the others of a list like "main,pipefill".
local function count_partitions(list)
	local fill, other = 0, 0
	for name in string.gmatch(list or "", "[^,%s]+") do
		if pipefill.partitions[name] then
			fill = fill + 1
		else
			other = other + 1
		end
	end
	return fill, other
end

local function refuse(code, text)
	slurm.log_user("pipefill: %s", text)
	return code
end

-- Parts "gres:gpu:2,license:x" into what asks for GPUs and the rest.
local function part_gpus(tres)
	local gpus, rest = {}, {}
	for item in string.gmatch(tres or "", "[^,]+") do
		local name = string.gsub(item, "^gres[:/]", "")
		if name == "gpu" or string.sub(name, 1, 4) == "gpu:" or string.sub(name, 1, 4) == "gpu=" then
			gpus[#gpus + 1] = item
		else
			rest[#rest + 1] = item
		end
	end
	return gpus, table.concat(rest, ",")
end

-- What so many tasks ask for: "gres:gpu:2" of three is "gres:gpu:6".
local function of_tasks(item, tasks)
	local before, count = string.match(item, "^(.*[:=])(%d+)$")
	if count then
		return before .. string.format("%d", tonumber(count) * tasks)
	end
	return item .. ":" .. string.format("%d", tasks)
end

-- Takes the GPUs out of the request and returns them as one text, "" for none.
local function strip_gpus(job_desc)
	local found = {}
	for _, field in ipairs(tres_fields) do
		local gpus, rest = part_gpus(job_desc[field])
		if #gpus > 0 then
			job_desc[field] = rest
			local tasks = job_desc.num_tasks
			for _, item in ipairs(gpus) do
				if field == "tres_per_task" and given(tasks, NO_VAL) and tasks > 1 then
					item = of_tasks(item, tasks)
				end
				found[#found + 1] = item
			end
		end
	end
	-- From --ntasks-per-gpu alone Slurm works out a number of GPUs by itself.
	if given(job_desc.ntasks_per_tres, NO_VAL16) then
		job_desc.ntasks_per_tres = NO_VAL16
		if #found == 0 then
			found[1] = "gres:gpu"
		end
	end
	for _, field in ipairs(beside_fields) do
		if given(job_desc[field], nil) and job_desc[field] ~= "" then
			job_desc[field] = ""
		end
	end
	if #found == 0 then
		return ""
	end
	local environment = job_desc.environment
	if environment then
		for _, name in ipairs(gpu_environment) do
			if environment[name] then
				environment[name] = ""
			end
		end
	end
	-- The note is one word without our separators; a GPU's type has only these characters.
	return (string.gsub(table.concat(found, ","), "[^%w:,._/%-]", "_"))
end

-- The value of --pipefill, or of its twin in the environment of jobs that come through slurmrestd, percent-encoded:
-- slurmrestd does not show options of plugins.
local function pipefill_option(job_desc)
	local value = (job_desc.environment or {})["PIPEFILL_OPTIONS"]
	for _, pair in pairs(job_desc.spank_job_env or {}) do
		local option = string.match(tostring(pair), "^_SLURM_SPANK_OPTION_pipefill_pipefill=(.*)$")
		if option and option ~= "(null)" then
			value = option
		end
	end
	return (string.gsub(string.sub(value or "", 1, 512), "[^%w,:.+-]", function(c)
		return string.format("%%%02X", string.byte(c))
	end))
end

-- The administrator's comment is where pipefillctld reads what was asked for (controller/slurm/note.go). Words of an
-- operator's own comment stay; a user's cannot pose as ours.
local function write_note(job_desc, submit_uid, gpus)
	local words, items = {}, {}
	if pipefill.operators[submit_uid] then
		for word in string.gmatch(job_desc.admin_comment or "", "%S+") do
			if string.sub(word, 1, 9) ~= "pipefill:" then
				words[#words + 1] = word
			end
		end
	end
	if gpus ~= "" then
		items[#items + 1] = "gpus=" .. gpus
	end
	local options = pipefill_option(job_desc)
	if options ~= "" then
		items[#items + 1] = "opts=" .. options
	end
	if job_desc.requeue == 0 then
		items[#items + 1] = "norequeue"
	end
	if #items > 0 then
		words[#words + 1] = "pipefill:" .. table.concat(items, ";")
	end
	if #words > 0 or given(job_desc.admin_comment, nil) then
		job_desc.admin_comment = table.concat(words, " ")
	end
end

function pipefill.job_submit(job_desc, part_list, submit_uid)
	local list = job_desc.partition
	if list == nil or list == "" then
		list = default_partition(part_list)
	end
	local fill, other = count_partitions(list)
	if fill == 0 then
		return slurm.SUCCESS
	end
	if other > 0 then
		return refuse(slurm.ERROR, "a job is either for a fill partition or for others, not for both; name one kind in --partition")
	end
	if job_desc.script == nil or job_desc.script == "" then
		return refuse(slurm.ERROR, "a fill partition takes batch jobs only, since others cannot be held or requeued; use sbatch")
	end
	if given(job_desc.het_job_offset, NO_VAL) then
		return refuse(slurm.ERROR, "a fill partition takes no heterogeneous jobs; submit its parts one by one")
	end
	if given(job_desc.min_nodes, NO_VAL) and job_desc.min_nodes > 1 then
		return refuse(slurm.ERROR, "a fill job runs on one node; leave out --nodes or write --nodes=1")
	end
	-- Fill jobs give way to the main job, and start again elsewhere, unless the user says --no-requeue.
	if not given(job_desc.requeue, NO_VAL16) then
		job_desc.requeue = 1
	end
	write_note(job_desc, submit_uid, strip_gpus(job_desc))
	job_desc.priority = 0
	slurm.log_user("pipefill: held until a bubble is free; see pipefill-cli queue")
	return slurm.SUCCESS
end

function pipefill.job_modify(job_desc, job_rec, part_list, modify_uid)
	if pipefill.operators[modify_uid] then
		return slurm.SUCCESS
	end
	local is_fill = count_partitions(job_rec.partition) > 0
	local to_fill = count_partitions(job_desc.partition) > 0
	if not is_fill then
		if to_fill then
			return refuse(ACCESS_DENIED, "a job cannot be moved into a fill partition; submit it there")
		end
		return slurm.SUCCESS
	end
	if given(job_desc.partition, nil) then
		return refuse(ACCESS_DENIED, "a fill job cannot be moved to another partition; cancel it and submit it there")
	end
	-- scontrol hold and release are changes of priority; a change of nice would release a held job.
	if given(job_desc.priority, NO_VAL) or given(job_desc.nice, NO_VAL) then
		return refuse(ACCESS_DENIED, "priority, nice, hold and release of a fill job go through pipefill-cli priority, hold and release")
	end
	if given(job_desc.admin_comment, nil) then
		return refuse(ACCESS_DENIED, "the administrator's comment of a fill job is pipefill's")
	end
	-- While it is released its node list is the pin to its device's node.
	if job_rec.priority ~= 0 and (given(job_desc.req_nodes, nil) or given(job_desc.exc_nodes, nil)) then
		return refuse(ACCESS_DENIED, "the node lists of a fill job can be changed while it is held; pipefill-cli hold it first")
	end
	if given(job_desc.min_nodes, NO_VAL) and job_desc.min_nodes > 1 then
		return refuse(ACCESS_DENIED, "a fill job runs on one node")
	end
	for _, field in ipairs(tres_fields) do
		if #part_gpus(job_desc[field]) > 0 or given(job_desc.ntasks_per_tres, NO_VAL16) then
			return refuse(ACCESS_DENIED, "a fill job is given its GPU by pipefill; it cannot ask Slurm for one")
		end
	end
	return slurm.SUCCESS
end

-- ---------------------------------------------------------------------------------------------------------------------

function slurm_job_submit(job_desc, part_list, submit_uid)
	return pipefill.job_submit(job_desc, part_list, submit_uid)
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
	return pipefill.job_modify(job_desc, job_rec, part_list, modify_uid)
end

return slurm.SUCCESS
