-- Health of GPUInventory, GPUInventoryPolicy and GPUQuarantine in Argo CD, from their conditions.
local health = { status = "Progressing", message = "waiting for gpuid-operator" }
local status = obj.status or {}
local spec = obj.spec or {}

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function words(condition)
  if condition.message ~= nil and condition.message ~= "" then
    return condition.reason .. ": " .. condition.message
  end
  return condition.reason
end

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "being deleted"
  return health
end

local ready = conditions["Ready"]
if ready == nil then
  return health
end
if (status.observedGeneration or 0) < (obj.metadata.generation or 0) then
  health.message = "the newest spec is not in effect yet"
  return health
end
if status.state == "Departed" then
  health.status = "Healthy"
  health.message = "the node is gone; this is its record"
  return health
end
if spec.suspend == true or ready.reason == "Suspended" or ready.reason == "Expired" then
  health.status = "Suspended"
  health.message = words(ready)
  return health
end
if ready.status == "Unknown" then
  health.message = words(ready)
  return health
end

-- Conditions, each with the status that means a problem; the message is that of the first match.
local wrong = {
  { "Ready", "False" },
  { "Conflict", "True" },
  { "Healthy", "False" },
  { "ChecksPassed", "False" },
  { "Quarantined", "True" },
  { "Unique", "False" },
  { "AsExpected", "False" },
  { "Delivered", "False" },
}
for _, item in ipairs(wrong) do
  local condition = conditions[item[1]]
  if condition ~= nil and condition.status == item[2] then
    -- Pending records are not a problem.
    if condition.reason ~= "Pending" then
      health.status = "Degraded"
    end
    health.message = words(condition)
    return health
  end
end

health.status = "Healthy"
if obj.kind == "GPUInventoryPolicy" then
  health.message = "applies to " .. (status.matchedNodes or 0) .. " nodes"
  if ready.reason == "ChecksDisabled" then
    health.message = health.message .. "; " .. words(ready)
  end
elseif obj.kind == "GPUQuarantine" then
  health.message = "matches " .. (status.matchCount or 0) .. " GPUs of this cluster"
else
  health.message = (status.gpuCount or 0) .. " GPUs"
end
return health
